//! A comparison for people: one Markdown file, and one page for a browser that needs no network, with
//! the same tables and with charts. Pure.

use oarlock::bench::page::chart::{Axis, Chart, Line, Scale, escape, tell_us};
use oarlock::bench::page::document as page;

use super::document::Document;
use super::generator::Figure;
use super::load::Load;
use super::summary::{Run, Spread, Summary};
use super::system::System;

/// A heading, words under it, and a table.
#[derive(Default)]
struct Part {
    title: String,
    words: String,
    head: Vec<String>,
    rows: Vec<Vec<String>>,
}

impl Part {
    /// Of a load: a column for each figure behind the rows' names, without the rows that have none.
    fn of_load(
        title: String,
        words: String,
        (first, columns): (&str, &[Column]),
        rows: impl Iterator<Item = (String, Vec<Option<String>>)>,
    ) -> Option<Self> {
        let head = std::iter::once(first).chain(columns.iter().map(|(_, name, _)| *name));
        let rows =
            rows.filter(|(_, cells)| cells.iter().any(Option::is_some)).map(|(name, cells)| {
                let cells = cells.into_iter().map(|cell| cell.unwrap_or_else(|| "–".to_owned()));
                std::iter::once(name).chain(cells).collect()
            });
        let (head, rows) = (head.map(str::to_owned).collect(), rows.collect());
        let part = Self { title, words, head, rows };
        (!part.rows.is_empty() || !part.words.is_empty()).then_some(part)
    }

    fn markdown(&self) -> String {
        let mut out = format!("## {}\n\n", self.title);
        if !self.words.is_empty() {
            out += &format!("{}\n\n", self.words);
        }
        if !self.rows.is_empty() {
            // What would end a cell or a line.
            let cell = |cell: &String| cell.replace('|', "/").replace('\n', " ");
            let line = |cells: &[String]| {
                let cells: Vec<String> = cells.iter().map(cell).collect();
                format!("| {} |\n", cells.join(" | "))
            };
            out += &line(&self.head);
            out += &format!("|{}\n", "---|".repeat(self.head.len()));
            out += &self.rows.iter().map(|row| line(row)).collect::<String>();
            out.push('\n');
        }
        out
    }

    fn html(&self) -> String {
        let mut out = format!("<h2>{}</h2>\n", escape(&self.title));
        for words in self.words.split("\n\n").filter(|words| !words.is_empty()) {
            out += &format!("<p>{}</p>\n", escape(words));
        }
        if !self.rows.is_empty() {
            let line = |tag: &str, cells: &[String]| {
                let cell = |cell: &String| format!("<{tag}>{}</{tag}>", escape(cell));
                format!("<tr>{}</tr>\n", cells.iter().map(cell).collect::<String>())
            };
            let rows: String = self.rows.iter().map(|row| line("td", row)).collect();
            let table = format!("<table>{}{rows}</table>", line("th", &self.head));
            out += &format!("<div class=\"wide\">{table}</div>\n");
        }
        // Marks of the other file.
        out.replace('`', "").replace("**", "")
    }
}

/// The Markdown file.
pub fn markdown(document: &Document) -> String {
    let mut out = "# Oarlock beside others\n\n".to_owned();
    for part in parts(document) {
        out += &part.markdown();
    }
    out.trim_end().to_owned() + "\n"
}

/// The page.
pub fn html(document: &Document) -> String {
    let mut body = String::new();
    for part in parts(document) {
        body += &part.html();
    }
    body += "<h2>Curves</h2>\n<p>Of each system the round whose p99 is the median.</p>\n";
    let summary = Summary(&document.runs);
    let has_curve =
        |load: &Load| document.runs.iter().any(|run| run.load == *load && !run.curve.is_empty());
    let loads = document.config.loads.iter().map(|(load, _)| *load).filter(has_curve);
    for load in loads {
        body += &curves(document, summary, load).svg();
    }
    page("Oarlock beside others", &body)
}

fn curves(document: &Document, summary: Summary<'_>, load: Load) -> Chart {
    let line = |system: &System| {
        let mut runs: Vec<&Run> = summary
            .runs(load, *system)
            .filter(|run| run.figures.contains_key(&Figure::P99Us))
            .collect();
        runs.sort_by(|a, b| a.figures[&Figure::P99Us].total_cmp(&b.figures[&Figure::P99Us]));
        let middle = runs.len() / 2;
        let points = runs.get(middle)?.curve.clone();
        Some(Line { name: system.name().to_owned(), points })
    };
    Chart {
        title: load.name(),
        x: Axis { label: "percentile", scale: Scale::Tail, tell: |x| format!("{x:.4} %") },
        y: Axis { label: "latency", scale: Scale::Log, tell: tell_us },
        lines: document.config.systems.iter().filter_map(line).collect(),
        marks: Vec::new(),
    }
}

/// What a run gave, in a line.
pub fn run(run: &Run) -> String {
    if let Some(error) = &run.error {
        return format!("failed: {error}");
    }
    let tell = |(figure, name, _): &Column| {
        run.figures.get(figure).map(|value| format!("{name} {}", plain(*value)))
    };
    columns(run.load).iter().filter_map(tell).collect::<Vec<_>>().join(", ")
}

/// The table of targets alone.
pub fn verdicts(document: &Document) -> String {
    targets(document).markdown()
}

fn parts(document: &Document) -> Vec<Part> {
    let summary = Summary(&document.runs);
    let loads: Vec<Load> = document.config.loads.iter().map(|(load, _)| *load).collect();
    let mut parts = vec![about(document), targets(document)];
    parts.extend(loads.iter().filter_map(|load| ratios(document, summary, *load)));
    parts.extend(loads.iter().filter_map(|load| medians(document, summary, *load)));
    parts.push(durability(document));
    parts.extend(left_out(document));
    parts.push(how(document));
    parts
}

fn about(document: &Document) -> Part {
    let machine = |key: &str| document.machine[key].to_string().trim_matches('"').to_owned();
    let config = &document.config;
    let versions: Vec<String> =
        document.versions.iter().map(|(name, version)| format!("{name} {version}")).collect();
    let words = format!(
        "Commit {}, {} rounds in {:.0} minutes, begun at {} (Unix time).\n\n\
         All nodes and the generator on one machine: {}, {} CPUs, {}, Linux {}; {}.\n\n\
         Versions: {}.\n\n\
         Made by `{}`.",
        document.commit,
        config.rounds,
        document.took_s / 60.0,
        document.started_unix_s,
        machine("cpu"),
        machine("cpus"),
        machine("memory"),
        machine("kernel"),
        document.disk,
        versions.join("; "),
        document.command.join(" "),
    );
    Part { title: "What this is".to_owned(), words, ..Part::default() }
}

fn targets(document: &Document) -> Part {
    let rows = document.verdicts.iter().map(|verdict| {
        vec![
            verdict.target.clone(),
            way(verdict.system).to_owned(),
            verdict.against.clone(),
            verdict.value.map_or("–".to_owned(), told),
            verdict.wanted.clone(),
            verdict.floor.map_or("–".to_owned(), told),
            match verdict.is_met {
                Some(true) => "**met**",
                Some(false) => "**not met**",
                None => "not measured",
            }
            .to_owned(),
        ]
    });
    Part {
        title: "Targets".to_owned(),
        words:
            "Medians over the rounds of the ratio within a round, with the lowest and the highest. \
                Where several rivals are set against, the one that leaves Oarlock looking worst is \
                named and decides; redis, a single process without a quorum, is not among them. Beside \
                it, what the floor comes to in Oarlock's place: a durable write on two of three \
                processes costs no less there."
                .to_owned(),
        head: words(&["target", "Oarlock", "against", "ratio", "wanted", "the floor", ""]),
        rows: rows.collect(),
    }
}

fn way(system: System) -> &'static str {
    match system {
        System::OarlockMap => "by the map",
        System::OarlockAny
        | System::Floor
        | System::RaftRs
        | System::Openraft
        | System::Dragonboat
        | System::Etcd
        | System::Redis => "any node",
    }
}

/// A figure, the words for it, and whether ratios of it are told, too.
type Column = (Figure, &'static str, bool);

/// What is told of a load.
fn columns(load: Load) -> &'static [Column] {
    const LATENCY: &[Column] = &[
        (Figure::Rate, "answers/s", true),
        (Figure::P50Us, "p50 µs", true),
        (Figure::P99Us, "p99 µs", true),
        (Figure::P999Us, "p99.9 µs", true),
        (Figure::MaxUs, "max µs", false),
        (Figure::Errors, "errors", false),
        (Figure::CpuUs, "servers' CPU µs per write", true),
        (Figure::DiskPerByte, "bytes that the disk wrote per byte", true),
        (Figure::WrittenPerByte, "of these asked for by the servers", true),
        (Figure::LoopbackBytes, "loopback bytes per write", true),
        (Figure::MemoryMib, "servers' memory MiB", false),
        (Figure::GeneratorShare, "generator's CPU to servers'", false),
    ];
    const MIXED: &[Column] = &[
        (Figure::Rate, "answers/s", true),
        (Figure::ReadsP99Us, "reads p99 µs", true),
        (Figure::WritesP50Us, "writes p50 µs", true),
        (Figure::ReadsToWrites, "reads p99 to writes p50", false),
        (Figure::P99Us, "all p99 µs", true),
        (Figure::Errors, "errors", false),
        (Figure::CpuUs, "servers' CPU µs per operation", true),
        (Figure::GeneratorShare, "generator's CPU to servers'", false),
    ];
    match load {
        Load::Open5k | Load::Open20k | Load::Closed64 | Load::Closed256 => LATENCY,
        Load::HighestRate => &[(Figure::HighestRate, "writes/s", true)],
        Load::Mixed => MIXED,
        Load::NodeReturn => &[
            (Figure::BeforeP99Us, "p99 before µs", false),
            (Figure::ReturnP99Us, "p99 meanwhile µs", false),
            (Figure::ReturnToBefore, "ratio", false),
            (Figure::ReturnS, "seconds until caught up", false),
            (Figure::Snapshots, "groups by snapshot", false),
            (Figure::Errors, "errors", false),
        ],
    }
}

fn ratios(document: &Document, summary: Summary<'_>, load: Load) -> Option<Part> {
    let columns: Vec<Column> =
        columns(load).iter().copied().filter(|(_, _, is_told)| *is_told).collect();
    let (oarlock, others): (Vec<System>, Vec<System>) =
        document.config.systems.iter().partition(|system| system.is_oarlock());
    let pairs = oarlock.iter().flat_map(|one| others.iter().map(|other| (*one, *other)));
    let rows = pairs.map(|(one, other)| {
        let ratio = |(figure, ..): &Column| summary.ratio(load, *figure, one, other).map(told);
        (format!("{} / {}", way(one), other.name()), columns.iter().map(ratio).collect())
    });
    let title = format!("Ratios: {}", load.name());
    Part::of_load(title, String::new(), ("Oarlock / other", &columns), rows)
}

fn medians(document: &Document, summary: Summary<'_>, load: Load) -> Option<Part> {
    let columns = columns(load);
    let systems = document.config.systems.iter().copied();
    let failure = |system: System| {
        let mut failed =
            summary.runs(load, system).filter_map(|run| run.error.as_deref()).peekable();
        let first = (*failed.peek()?).to_owned();
        let name = system.name();
        Some(format!("{name}: {} runs failed, the first with: {first}.", failed.count()))
    };
    let failures: Vec<String> = systems.clone().filter_map(failure).collect();
    let rows = systems.map(|system| {
        let mut name = system.name().to_owned();
        if !summary.sustains(load, system) {
            name += " (does not sustain it)";
        }
        let median = |(figure, ..): &Column| {
            summary.spread(load, system, *figure).map(|spread| plain(spread.median))
        };
        (name, columns.iter().map(median).collect())
    });
    let title = format!("Medians: {}", load.name());
    Part::of_load(title, failures.join("\n\n"), ("median", columns), rows)
}

fn durability(document: &Document) -> Part {
    let rows = document.durability.iter().map(|seen| {
        let name = if seen.system.is_oarlock() { "Oarlock" } else { seen.system.name() };
        vec![
            name.to_owned(),
            plain(seen.writes),
            plain(seen.per_write()),
            seen.told(),
            seen.system.quorum().to_string(),
            if seen.is_durable() { "yes" } else { "**no**" }.to_owned(),
        ]
    });
    Part {
        title: "Was each write on disk before it was acknowledged?".to_owned(),
        words: "Writes one at a time; meanwhile each node's calls that sync, counted by strace, or its \
                writes to a log that is open with O_DSYNC, through io_uring, by the blocks of 4 KiB \
                that the kernel wrote for it, and Oarlock's also by its own counter: the lower \
                count is told. For each acknowledged write there must be one \
                on two nodes (on one, of redis). The device joins flushes of several nodes."
            .to_owned(),
        head: words(&["", "writes", "durable per write", "node by node", "needed", "durable"]),
        rows: rows.collect(),
    }
}

fn left_out(document: &Document) -> Option<Part> {
    let rows: Vec<Vec<String>> = document
        .left_out
        .iter()
        .map(|(system, why)| vec![system.name().to_owned(), why.clone()])
        .collect();
    let title = "Left out".to_owned();
    (!rows.is_empty()).then(|| Part { title, head: words(&["", "why"]), rows, ..Part::default() })
}

fn how(document: &Document) -> Part {
    let config = &document.config;
    let text = format!(
        "In each round each load is put on one system after the other, in an order that moves on by one \
         with each round; each time on new processes in a new folder, which are ended before the next \
         start; Oarlock's two ways to send follow each other on the same processes. Three nodes, {} \
         ranges (one group in etcd), {} core or thread per node where that can be set (Go's programs \
         have all). A latency runs from the time at which an operation was due. A load is sustained if \
         95 % of what is due is answered, without an error, in the median round. The highest rate is \
         looked for by doubling and halving, in steps of 19 %, with runs of {} s; a run that keeps up \
         and whose p99 is too long is repeated once. CPU and bytes are those of all servers' processes \
         in the window, from /proc; a byte of user data is one of a key or value. With io_uring as with \
         fsync, what the kernel does in its own threads is in nobody's figure.",
        config.ranges, config.cores, config.times.try_s,
    );
    let rows = config.loads.iter().map(|(load, command)| {
        let command = match load {
            Load::NodeReturn => "node 3 gets SIGKILL; the others are written to, values of 1 KiB, \
                                 1,024 in flight, until all their groups have checkpoints past it; it is \
                                 started again, and writes at 5,000 per second are timed until it has \
                                 applied what was committed when it started"
                .to_owned(),
            Load::Open5k
            | Load::Open20k
            | Load::Closed64
            | Load::Closed256
            | Load::HighestRate
            | Load::Mixed => format!("`{command}`"),
        };
        vec![load.name().to_owned(), command]
    });
    Part {
        title: "How".to_owned(),
        words: text,
        head: words(&["load", "by"]),
        rows: rows.collect(),
    }
}

fn words(words: &[&str]) -> Vec<String> {
    words.iter().map(|word| (*word).to_owned()).collect()
}

fn told(spread: Spread) -> String {
    let Spread { median, min, max, count } = spread;
    match count {
        1 => format!("{median:.2}"),
        _ => format!("{median:.2} ({min:.2}..{max:.2})"),
    }
}

fn plain(value: f64) -> String {
    if value >= 100.0 || value.fract() == 0.0 {
        format!("{value:.0}")
    } else {
        format!("{value:.2}")
    }
}

#[cfg(test)]
mod tests {
    use super::super::document::Config;
    use super::super::durability::{Durability, Node};
    use super::super::load::Times;
    use super::super::summary::verdicts;
    use super::*;

    fn document() -> Document {
        let systems = [System::OarlockAny, System::RaftRs];
        let config = Config::new(2, 1, Times::QUICK, &systems, &[Load::Open5k, Load::HighestRate]);
        let mut document = Document::new(config, std::path::Path::new("/"));
        for (round, system, p99) in [
            (1, System::OarlockAny, 400.0),
            (1, System::RaftRs, 1_000.0),
            (2, System::OarlockAny, 600.0),
            (2, System::RaftRs, 1_000.0),
        ] {
            let figures = [
                (Figure::P99Us, p99),
                (Figure::Rate, 5_000.0),
                (Figure::Errors, 0.0),
                (Figure::CpuUs, 12.345),
            ];
            document.runs.push(Run {
                round,
                load: Load::Open5k,
                system,
                figures: figures.into_iter().collect(),
                curve: vec![(0.0, 100.0), (99.0, p99)],
                error: None,
            });
        }
        document.left_out.push((System::Etcd, "etcd <is> not installed".to_owned()));
        let node = Node { syncs: Some(100.0), durable_writes: None };
        document.durability.push(Durability {
            system: System::RaftRs,
            writes: 100.0,
            nodes: vec![node.clone(), node],
            device_flushes: Some(150.0),
        });
        document.verdicts = verdicts(Summary(&document.runs));
        document
    }

    #[test]
    fn the_tables_say_what_was_measured() {
        let text = markdown(&document());
        for line in [
            "| p99 at 5k writes/s | any node | raft-rs | 0.50 (0.40..0.60) | ≤ 0.5 | – | **met** |",
            "| p99 at 5k writes/s | by the map | not measured | – | ≤ 0.5 | – | not measured |",
            "| any node / raft-rs | 1.00 (1.00..1.00) | – | 0.50 (0.40..0.60) | – | 1.00 (1.00..1.00) | – |",
            "| raft-rs | 5000 | – | 1000 | – | – | 0 | 12.35 | – | – |",
            "| raft-rs | 100 | 2 | 1.00 syncs; 1.00 syncs; 1.50 flushes of the device | 2 | yes |",
            "| etcd | etcd <is> not installed |",
        ] {
            assert!(text.contains(line), "{line}\n{text}");
        }
        assert!(text.contains("`oarlock bench --clients 64 --keys 100000 --value-bytes 128"));
        let folders = ["work", "root", "home", "tmp"].map(|name| format!("/{name}/"));
        assert!(!folders.iter().any(|folder| text.contains(folder)), "{text}");
    }

    #[test]
    fn the_page_holds_the_same_and_curves_and_fetches_nothing() {
        let page = html(&document());
        for fetch in ["http:", "https:", "src=", "href=", "url(", "<link"] {
            assert!(!page.contains(fetch), "the page has {fetch}");
        }
        assert!(page.contains("etcd &lt;is&gt; not installed"));
        assert!(page.contains("<td>0.50 (0.40..0.60)</td>"));
        assert!(page.contains("data-name=\"raft-rs\"") && page.contains("99.0000 %: 1 ms"));
        let drawn = page.split("<script>").next().expect("there is a part before it");
        assert!(drawn.contains("<td>met</td>") && !drawn.contains("NaN"), "{drawn}");
    }

    #[test]
    fn what_is_written_is_read_again() {
        let document = document();
        let text = serde_json::to_string(&document).unwrap();
        let again: Document = serde_json::from_str(&text).unwrap();
        assert_eq!(markdown(&again), markdown(&document));
        assert_eq!(again.runs[0].figures, document.runs[0].figures);
    }
}
