//! Golden scripts of the log: one scenario each, with the property in its first lines. Each block
//! shows what the log does and says. `UPDATE_GOLDENFILES=1` writes the answers anew.
//!
//! Commands: `append G first..last@term [size=N]`, `vote G term node`, `create G`, `destroy G`,
//! `checkpoint G index@term keep=N|none`, `seal`, `durable`, `flush`, `prepare`, `retire`,
//! `stragglers`, `rewrite`, `locate G from to`, `catch-up G from to…`, `fail`, `queue`, `tear sectors=a,b` (of the frame in
//! flight), `flip segment offset bit`, `drop segment`, `truncate segment bytes`, `alien segment`,
//! `recover`, `restart`, `hexdump segment offset length`, `bytes G`, `tail G end bytes`, `reach G`,
//! `range G`, `sizes`, `report` (what recovery saw of each segment), `ready` (what stands ready).

use std::collections::BTreeMap;
use std::error::Error;
use std::fmt::Write as _;
use std::path::Path;

use bytes::Bytes;
use goldenscript::{Command, Context, Runner};
use oarlock_codec::Record;
use oarlock_raft::{Configuration, Entry, HardState, LogPosition, Payload, SnapshotMeta};
use oarlock_types::{ClusterId, CoreId, DiskId, GroupId, Index, Lsn, NodeId, SegmentId, Term};
use oarlock_wal::layout::{BLOCK_BYTES, SECTOR_BYTES};
use oarlock_wal::{EntriesRead, FrameWrite, Owner, Recovered, Recovery, Wal, WalConfig};

type Outcome = Result<String, Box<dyn Error>>;

fn config() -> WalConfig {
    let owner = Owner { cluster: ClusterId(7), node: NodeId(1), disk: DiskId(9), core: CoreId(2) };
    WalConfig { owner, segment_bytes: 32 << 10, frame_bytes_max: 12 << 10 }
}

struct Script {
    wal: Wal,
    disk: BTreeMap<SegmentId, Vec<u8>>,
    in_flight: Option<(FrameWrite, Vec<u8>)>,
    /// The newest segment that was prepared.
    newest: Option<SegmentId>,
}

fn number<T: std::str::FromStr>(text: Option<&str>) -> Result<T, Box<dyn Error>> {
    text.and_then(|text| text.parse().ok()).ok_or_else(|| "a number is missing".into())
}

fn group(text: Option<&str>) -> Result<GroupId, Box<dyn Error>> {
    Ok(GroupId(number(text.and_then(|text| text.strip_prefix('g')))?))
}

fn place(write: &FrameWrite) -> String {
    let FrameWrite { segment, offset, len, lsn } = write;
    format!("{lsn} → {segment} at {offset}, {len} bytes\n")
}

fn spans(entries: &[Entry]) -> String {
    let mut text = String::new();
    let mut rest = entries;
    while let Some(first) = rest.first() {
        let count = rest.iter().take_while(|entry| entry.at.term == first.at.term).count();
        let _ = write!(text, " {}..{}@{}", first.at.index, rest[count - 1].at.index, first.at.term);
        rest = &rest[count..];
    }
    text
}

fn entries(span: &str, size: usize) -> Result<Vec<Entry>, Box<dyn Error>> {
    let (range, term) = span.split_once('@').ok_or("first..last@term")?;
    let (first, last) = range.split_once("..").unwrap_or((range, range));
    let (first, last): (u64, u64) = (first.parse()?, last.parse()?);
    let term = Term(term.parse()?);
    let payload = || Payload::Commands(Bytes::from(vec![b'x'; size]));
    let at = |index| LogPosition { term, index: Index(index) };
    Ok((first..=last).map(|index| Entry { at: at(index), payload: payload() }).collect())
}

fn describe(recovered: &Recovered) -> String {
    let mut text = format!("durable {}\n", recovered.wal.durable_lsn());
    if let Some((segment, offset)) = recovered.torn {
        let _ = writeln!(text, "torn: {segment} at {offset}");
    }
    for damage in &recovered.damage {
        let _ = writeln!(text, "damage: {damage}");
    }
    for (id, group) in &recovered.groups {
        let _ = write!(text, "{id}: term {}", group.hard_state.term);
        if let Some(vote) = group.hard_state.vote {
            let _ = write!(text, " vote {vote}");
        }
        if let Some(meta) = &group.checkpoint {
            let _ = write!(text, " checkpoint {}", meta.position);
        }
        let _ = write!(text, " log from {}:{}", group.log_start, spans(&group.entries));
        let _ = writeln!(text, "{}", if group.damaged { " DAMAGED" } else { "" });
    }
    text
}

fn report(recovered: &Recovered) -> String {
    let mut text = String::new();
    for report in &recovered.segments {
        let lsns = report.lsns.map_or("none".into(), |(first, last)| format!("{first} to {last}"));
        let groups: Vec<String> = report.groups.iter().map(ToString::to_string).collect();
        let _ = writeln!(
            text,
            "{}: {} frames, {lsns}, {} records of {}, {} bytes used",
            report.segment,
            report.frames_count,
            report.records_count,
            groups.join(" "),
            report.used_bytes,
        );
    }
    text
}

impl Script {
    fn new() -> Self {
        let mut script =
            Self { wal: Wal::new(config()), disk: BTreeMap::new(), in_flight: None, newest: None };
        script.prepare(None);
        script
    }

    fn prepare(&mut self, mut recycled: Option<Vec<u8>>) -> String {
        let mut text = String::new();
        while let Some(id) = self.wal.next_segment_wanted() {
            let zeros = || vec![0; usize::try_from(config().segment_bytes).expect("small")];
            let mut file = recycled.take().unwrap_or_else(zeros);
            file[..BLOCK_BYTES].copy_from_slice(&config().segment_header(id));
            self.disk.insert(id, file);
            self.newest = Some(id);
            self.wal.segment_prepared(id);
            let _ = writeln!(text, "prepared {id}");
        }
        text
    }

    fn seal(&mut self) -> Option<FrameWrite> {
        let mut out = vec![0xEE; config().frame_bytes_max];
        let write = self.wal.seal(&mut out)?;
        out.truncate(write.len);
        self.in_flight = Some((write, out));
        Some(write)
    }

    fn land(&mut self, landed: impl Fn(usize) -> bool) -> Result<Lsn, Box<dyn Error>> {
        let (write, bytes) = self.in_flight.take().ok_or("nothing is in flight")?;
        let file = self.disk.get_mut(&write.segment).ok_or("no such segment")?;
        for (number, sector) in bytes.chunks(SECTOR_BYTES).enumerate().filter(|(n, _)| landed(*n)) {
            let at = usize::try_from(write.offset)? + number * SECTOR_BYTES;
            file[at..at + sector.len()].copy_from_slice(sector);
        }
        Ok(write.lsn)
    }

    fn recover(&self) -> Recovered {
        let mut recovery = Recovery::new(config());
        if let Some(newest) = self.newest {
            recovery.expect_up_to(newest);
        }
        for (id, bytes) in &self.disk {
            recovery.feed(*id, bytes);
        }
        recovery.finish()
    }

    fn record(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let group = group(args.next_pos())?;
        let record = match command.name.as_str() {
            "append" => {
                let span = args.next_pos().ok_or("first..last@term")?;
                let size: usize = args.take_key("size").map_or(Ok(10), str::parse)?;
                Record::Entries { group, entries: entries(span, size)? }
            }
            "vote" => {
                let term = Term(number(args.next_pos())?);
                let vote = Some(NodeId(number(args.next_pos())?));
                Record::HardState { group, hard_state: HardState { term, vote } }
            }
            "create" => {
                let configuration = Configuration::simple([NodeId(1), NodeId(2), NodeId(3)]);
                Record::Create { group, configuration, details: Bytes::new() }
            }
            "checkpoint" => {
                let (index, term) =
                    args.next_pos().and_then(|text| text.split_once('@')).ok_or("index@term")?;
                let position =
                    LogPosition { term: Term(term.parse()?), index: Index(index.parse()?) };
                let keep = args.take_key("keep").ok_or("keep=")?;
                let keep_from = Index(if keep == "none" { u64::MAX } else { keep.parse()? });
                let meta = SnapshotMeta { position, ..SnapshotMeta::default() };
                Record::Checkpoint { group, meta, keep_from }
            }
            _ => Record::Destroy { group },
        };
        args.reject_next()?;
        Ok(format!("rides in {}\n", self.wal.append(&record)))
    }

    fn write(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        Ok(match command.name.as_str() {
            "seal" => self.seal().map_or("nothing\n".to_owned(), |write| place(&write)),
            "durable" => {
                let lsn = self.land(|_| true)?;
                self.wal.durable(lsn);
                format!("durable {lsn}\n")
            }
            "tear" => {
                let list = args.take_key("sectors").ok_or("sectors=")?;
                let sectors: Result<Vec<usize>, _> = list.split(',').map(str::parse).collect();
                let sectors = sectors?;
                let lsn = self.land(|number| sectors.contains(&number))?;
                format!("of {lsn} only sectors {list} landed\n")
            }
            "fail" => {
                self.wal.fail();
                self.in_flight = None;
                "failed\n".to_owned()
            }
            _ => {
                let mut text = String::new();
                while let Some(write) = self.seal() {
                    text.push_str(&place(&write));
                    let lsn = self.land(|_| true)?;
                    self.wal.durable(lsn);
                    self.prepare(None);
                }
                text
            }
        })
    }

    fn compact(&mut self, command: &Command) -> Outcome {
        let mut text = String::new();
        match command.name.as_str() {
            "retire" => {
                while let Some(id) = self.wal.retire() {
                    let file = self.disk.remove(&id);
                    let _ = writeln!(text, "retired {id}");
                    text.push_str(&self.prepare(file));
                }
            }
            "stragglers" => {
                for straggler in self.wal.stragglers() {
                    let group = straggler.group;
                    let span = straggler.entries.map(|(first, last)| format!("{first}..{last}"));
                    let span = span.unwrap_or("no entries".to_owned());
                    let _ = writeln!(text, "{group}: {span}, {} bytes", straggler.bytes);
                }
            }
            "rewrite" => {
                for read in self.wal.straggler_reads() {
                    let at = usize::try_from(read.offset)?;
                    let bytes = self.disk[&read.segment][at..at + read.len].to_vec();
                    let done = self.wal.rewrite(&read, &bytes)?;
                    let (first, last, count) = (read.first_lsn, read.last_lsn, done.records_count);
                    let _ = writeln!(text, "{first} to {last}: {count} records copied");
                }
            }
            _ => {
                let mut args = command.consume_args();
                let group = group(args.next_pos())?;
                let (from, to) = (number(args.next_pos())?, number(args.next_pos())?);
                let mut from = Index(from);
                while let Some(read) = self.wal.locate(group, from, Index(to)) {
                    text += &self.read_together(&[read])?;
                    from = read.to.next();
                }
            }
        }
        Ok(if text.is_empty() { "nothing\n".to_owned() } else { text })
    }

    /// `catch-up g1 1 5 g2 3 4`: the first of what each group wants, by one read.
    fn catch_up(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let mut reads = Vec::new();
        while let Some(name) = args.next_pos() {
            let of_group = group(Some(name))?;
            let (from, to) = (number(args.next_pos())?, number(args.next_pos())?);
            reads.push(self.wal.locate(of_group, Index(from), Index(to)).ok_or("not there")?);
        }
        self.read_together(&reads)
    }

    fn read_together(&self, reads: &[EntriesRead]) -> Outcome {
        let first = reads.first().ok_or("nothing to read")?;
        let span = self.wal.join(first, reads);
        let (joined, alone): (Vec<_>, Vec<_>) =
            reads.iter().partition(|read| span.encloses(&read.span));
        let at = usize::try_from(span.offset)?;
        let bytes = &self.disk[&span.segment][at..at + span.len];
        let mut text = format!("{} at {at}, {} bytes:", span.segment, span.len);
        for (read, found) in joined.iter().zip(self.wal.entries_of(&span, bytes, &joined)) {
            if reads.len() > 1 {
                let _ = write!(text, " {}:", read.group);
            }
            match found {
                Some(Ok(entries)) => text += &spans(&entries),
                Some(Err(error)) => {
                    let _ = write!(text, " {error}");
                }
                None => text += " not come to",
            }
        }
        for read in alone {
            let _ = write!(text, " {}: stands elsewhere", read.group);
        }
        Ok(text + "\n")
    }

    fn measure(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        if command.name == "sizes" {
            let next = self.wal.next_frame_bytes().map_or("no".to_owned(), |b| b.to_string());
            let (needed, size) = (self.wal.needed_bytes(), self.wal.size_bytes());
            return Ok(format!("{needed} of {size} bytes needed, {next} to be written\n"));
        }
        if command.name == "ready" {
            let ready: Vec<String> = self.wal.prepared().map(|id| id.to_string()).collect();
            let wanted = self.wal.next_segment_wanted().map_or("none".into(), |id| id.to_string());
            let in_flight = self.wal.in_flight().map_or("nothing".into(), |lsn| lsn.to_string());
            let failed = if self.wal.failed() { ", failed" } else { "" };
            return Ok(format!(
                "{} segments in use, ready {}, wanted {wanted}, in flight {in_flight}{failed}\n",
                self.wal.segments_count(),
                ready.join(" "),
            ));
        }
        let group = group(args.next_pos())?;
        Ok(match command.name.as_str() {
            "bytes" => format!("{} bytes behind the checkpoint\n", self.wal.group_log_bytes(group)),
            "tail" => {
                let (end, bytes) = (Index(number(args.next_pos())?), number(args.next_pos())?);
                format!("from {}\n", self.wal.tail_start(group, end, bytes))
            }
            "reach" => format!("{} bytes since its oldest\n", self.wal.reach_bytes(group)),
            _ => self
                .wal
                .group_log_range(group)
                .map_or("no entries\n".to_owned(), |(first, last)| format!("{first}..{last}\n")),
        })
    }

    fn harm(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        let id = SegmentId(number(args.next_pos())?);
        let file = self.disk.get_mut(&id).ok_or("no such segment")?;
        match command.name.as_str() {
            "flip" => {
                let (at, bit): (usize, u32) = (number(args.next_pos())?, number(args.next_pos())?);
                file[at] ^= 1 << bit;
            }
            "truncate" => file.truncate(number(args.next_pos())?),
            "alien" => {
                let mut other = config();
                other.owner.node = NodeId(2);
                file[..BLOCK_BYTES].copy_from_slice(&other.segment_header(id));
            }
            _ => {
                self.disk.remove(&id);
            }
        }
        Ok(String::new())
    }

    fn look(&mut self, command: &Command) -> Outcome {
        let mut args = command.consume_args();
        match command.name.as_str() {
            "recover" => Ok(describe(&self.recover())),
            "report" => Ok(report(&self.recover())),
            "restart" => {
                let recovered = self.recover();
                let text = describe(&recovered);
                self.wal = recovered.wal;
                self.in_flight = None;
                Ok(text + &self.prepare(None))
            }
            _ => {
                let id = SegmentId(number(args.next_pos())?);
                let (at, length): (usize, usize) =
                    (number(args.next_pos())?, number(args.next_pos())?);
                let mut text = String::new();
                for (n, line) in self.disk[&id][at..at + length].chunks(16).enumerate() {
                    let _ = write!(text, "{:06x} ", at + n * 16);
                    for byte in line {
                        let _ = write!(text, " {byte:02x}");
                    }
                    text.push('\n');
                }
                Ok(text)
            }
        }
    }
}

impl Runner for Script {
    type Command = Command;

    fn run(&mut self, command: &Command, _: &Context) -> Outcome {
        match command.name.as_str() {
            "append" | "vote" | "create" | "checkpoint" | "destroy" => self.record(command),
            "seal" | "durable" | "tear" | "fail" | "flush" => self.write(command),
            "retire" | "stragglers" | "rewrite" | "locate" => self.compact(command),
            "flip" | "truncate" | "alien" | "drop" => self.harm(command),
            "catch-up" => self.catch_up(command),
            "recover" | "report" | "restart" | "hexdump" => self.look(command),
            "prepare" => Ok(self.prepare(None)),
            "bytes" | "tail" | "reach" | "range" | "sizes" | "ready" => self.measure(command),
            other => Err(format!("no command {other}").into()),
        }
    }
}

fn run(name: &str) {
    let path = Path::new(env!("CARGO_MANIFEST_DIR")).join("tests/scripts").join(name);
    goldenscript::run(&mut Script::new(), path).expect("the script is there");
}

macro_rules! scripts {
    ($($name:ident),* $(,)?) => {
        $(#[test]
        fn $name() {
            run(stringify!($name));
        })*
    };
}

scripts! {
    append_seal_durable,
    checkpoint_drops_entries,
    corruption,
    failed_write,
    creation_before_a_lost_segment,
    frame_bytes,
    frames_do_not_span_segments,
    large_batch_is_split,
    last_two_frames_without_heads,
    recycled_segment_is_void,
    reads_beside_each_other,
    replaced_entries,
    rewriting_joins,
    retire_waits,
    reports,
    short_segment,
    stragglers_move,
    groups_that_are_read_together,
    locate_beside_a_copy,
    measures,
    moved_creation_behind_damage,
    newest_files_are_missed,
    no_room_in_the_last_segment,
    one_frame_at_a_time,
    torn_before_a_gap,
    torn_tail,
    wrong_segments,
    wrong_segment_is_let_go_of,
}
