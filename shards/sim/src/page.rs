//! A run as one page of HTML: a space-time diagram that a browser shows from the file alone. The
//! page's own parts stand in `src/page/`; this file gives it the events, and says what it leaves out.
//!
//! What the page must hold whatever was left out: every change of role, every fault, every start and
//! end of a process, so that the overview is whole.

use std::collections::{BTreeMap, BTreeSet};

use oarlock_types::{GroupId, NodeId};
use serde_json::{Value, json};

use crate::config::Config;
use crate::trace::{Event, Phase, What};
use crate::words;

/// About the most that a page's events take.
const BYTES_MAX: usize = 24 << 20;
/// Letters of a text; no message of a run is longer by much.
const LETTERS_MAX: usize = 600;
/// About what an event takes without its text.
const EVENT_BYTES: usize = 48;
/// Of the bytes, one in so many is for pulses: each has a text of its own.
const PULSES_PART: usize = 8;

/// What a page tells besides events.
#[derive(Clone, Debug, Default)]
pub struct Story {
    /// The run.
    pub seed: u64,
    /// The command that makes the same run.
    pub command: String,
    /// Why the run failed, if it did.
    pub failure: Option<String>,
    /// The virtual time at its end.
    pub end_us: u64,
}

/// What of a run a page shows in full. Outside of the time, only the landmarks.
#[derive(Clone, Debug, Default)]
pub struct Choice {
    /// From this virtual time on.
    pub from_us: Option<u64>,
    /// Up to this virtual time.
    pub to_us: Option<u64>,
    /// Only these groups, unless there are none.
    pub groups: Vec<GroupId>,
    /// About so many bytes of events, instead of 24 MiB.
    pub bytes_max: Option<usize>,
}

/// The page of a run.
#[must_use]
pub fn write(story: &Story, config: &Config, events: &[Event], choice: &Choice) -> String {
    let chosen = choose(story, events, choice);
    let data = data(story, config, events, choice, &chosen).to_string();
    // Whatever a text says, it ends no element of the page.
    let data = data.replace('<', "\\u003c").replace('>', "\\u003e").replace('&', "\\u0026");
    let script = [
        include_str!("page/model.js"),
        include_str!("page/tell.js"),
        include_str!("page/draw.js"),
        include_str!("page/panel.js"),
        include_str!("page/main.js"),
    ];
    let page = include_str!("page/page.html");
    let mut out = String::with_capacity(page.len() + data.len() + 100_000);
    let mut rest = page;
    for (mark, part) in [
        ("/*STYLE*/", include_str!("page/style.css").to_owned()),
        ("/*DATA*/", data),
        ("/*SCRIPT*/", script.join("\n")),
    ] {
        let (before, after) = rest.split_once(mark).expect("invariant: the page has its marks");
        out += before;
        out += &part;
        rest = after;
    }
    out + rest
}

/// What the overview needs however much is left out.
fn is_landmark(what: &What) -> bool {
    match what {
        What::Role { .. }
        | What::Fault { .. }
        | What::Calm
        | What::Started { .. }
        | What::Ended { .. } => true,
        What::Sent { .. }
        | What::Received { .. }
        | What::Lost { .. }
        | What::Pulse { .. }
        | What::Log { .. }
        | What::Node { .. }
        | What::Client { .. }
        | What::Asked { .. } => false,
    }
}

fn group_of(what: &What, sent: &BTreeMap<u64, GroupId>) -> Option<GroupId> {
    match what {
        What::Sent { group, .. }
        | What::Role { group, .. }
        | What::Log { group, .. }
        | What::Client { group, .. }
        | What::Asked { group, .. } => Some(*group),
        What::Received { message, .. } | What::Lost { message, .. } => sent.get(message).copied(),
        What::Fault { .. }
        | What::Pulse { .. }
        | What::Calm
        | What::Started { .. }
        | What::Ended { .. }
        | What::Node { .. } => None,
    }
}

fn text_of(what: &What) -> &str {
    match what {
        What::Sent { text, .. }
        | What::Pulse { text, .. }
        | What::Node { text, .. }
        | What::Client { text, .. } => text,
        What::Ended { why, .. } => why,
        What::Received { .. }
        | What::Lost { .. }
        | What::Role { .. }
        | What::Log { .. }
        | What::Fault { .. }
        | What::Calm
        | What::Started { .. }
        | What::Asked { .. } => "",
    }
}

/// Which events the page shows.
#[derive(Default)]
struct Chosen {
    keep: Vec<bool>,
    /// The time in which nothing is left out of the groups that are shown.
    full: Option<(u64, u64)>,
    is_cut_before: bool,
    is_cut_behind: bool,
    /// The time in which no pulse is left out, if some of that time are.
    pulses: Option<(u64, u64)>,
    are_pulses_cut: bool,
}

/// Where there are too many events, those are shown that are nearest to what is looked for: the end
/// of a run that failed, the beginning of one that did not.
fn choose(story: &Story, events: &[Event], choice: &Choice) -> Chosen {
    let mut sent = BTreeMap::new();
    for event in events {
        if let What::Sent { message, group, .. } = &event.what {
            sent.insert(*message, *group);
        }
    }
    let groups: BTreeSet<GroupId> = choice.groups.iter().copied().collect();
    let is_wanted = |what: &What| {
        groups.is_empty() || group_of(what, &sent).is_none_or(|group| groups.contains(&group))
    };
    let bytes_max = choice.bytes_max.unwrap_or(BYTES_MAX);
    let count = events.iter().filter(|event| is_landmark(&event.what)).count();
    let mut landmarks = (count * 2 * EVENT_BYTES).min(bytes_max / 2);
    let mut pulses = bytes_max / PULSES_PART;
    let mut others = bytes_max - landmarks - pulses;
    let mut told = BTreeSet::new();
    let mut chosen = Chosen { keep: vec![false; events.len()], ..Chosen::default() };
    let time = choice.from_us.unwrap_or(0)..=choice.to_us.unwrap_or(u64::MAX);
    let is_backward = story.failure.is_some();
    let order: Box<dyn Iterator<Item = usize>> =
        if is_backward { Box::new((0..events.len()).rev()) } else { Box::new(0..events.len()) };
    // Ordinary events that were passed over, before and after the first that is shown.
    let (mut earlier, mut later) = (false, false);
    for at in order {
        let Event { at_us, what } = &events[at];
        if !is_wanted(what) {
            continue;
        }
        // Each text stands in the page once.
        let text = text_of(what);
        let is_new = !told.contains(text);
        let cost = EVENT_BYTES + if is_new { text.len().min(LETTERS_MAX) } else { 0 };
        let is_landmark = is_landmark(what);
        if matches!(what, What::Pulse { .. }) {
            // Those of the time in which all else is shown, and not at its expense.
            if time.contains(at_us) && others > 0 {
                if pulses >= cost {
                    pulses -= cost;
                    told.insert(text);
                    chosen.keep[at] = true;
                    widen(&mut chosen.pulses, *at_us);
                } else {
                    pulses = 0; // no gap
                    chosen.are_pulses_cut = true;
                }
            }
            continue;
        }
        let budget = if is_landmark { &mut landmarks } else { &mut others };
        if *budget >= cost && (is_landmark || time.contains(at_us)) {
            *budget -= cost;
            told.insert(text);
            chosen.keep[at] = true;
            if !is_landmark {
                widen(&mut chosen.full, *at_us);
            }
            continue;
        }
        if !is_landmark && time.contains(at_us) {
            others = 0; // no gap in what is shown
        }
        if !is_landmark {
            *(if chosen.full.is_none() { &mut earlier } else { &mut later }) = true;
        }
    }
    let (before, behind) = if is_backward { (later, earlier) } else { (earlier, later) };
    (chosen.is_cut_before, chosen.is_cut_behind) = (before, behind);
    keep_first_logs(events, &mut chosen, &is_wanted);
    chosen
}

fn widen(stretch: &mut Option<(u64, u64)>, at_us: u64) {
    let (from, to) = stretch.unwrap_or((at_us, at_us));
    *stretch = Some((from.min(at_us), to.max(at_us)));
}

/// What each replica's log was before what is shown in full.
fn keep_first_logs(events: &[Event], chosen: &mut Chosen, is_wanted: &dyn Fn(&What) -> bool) {
    let mut is_known = BTreeSet::new();
    let from = chosen.full.map_or(0, |(from, _)| from);
    let end = events.partition_point(|event| event.at_us < from);
    for at in (0..end).rev() {
        if let What::Log { at: core, group, .. } = &events[at].what
            && is_wanted(&events[at].what)
            && is_known.insert((core.node, *group))
        {
            chosen.keep[at] = true;
        }
    }
}

/// Texts, each once.
#[derive(Default)]
struct Texts {
    places: BTreeMap<String, usize>,
    all: Vec<String>,
}

impl Texts {
    fn place(&mut self, text: &str) -> usize {
        let text = match text.char_indices().nth(LETTERS_MAX) {
            Some((end, _)) => format!("{}… (shortened)", &text[..end]),
            None => text.to_owned(),
        };
        if let Some(place) = self.places.get(&text) {
            return *place;
        }
        self.all.push(text.clone());
        self.places.insert(text, self.all.len() - 1);
        self.all.len() - 1
    }
}

fn data(
    story: &Story,
    config: &Config,
    events: &[Event],
    choice: &Choice,
    chosen: &Chosen,
) -> Value {
    let mut texts = Texts::default();
    let shown: Vec<Value> = events
        .iter()
        .zip(&chosen.keep)
        .filter(|(_, keep)| **keep)
        .map(|(event, _)| row(event, &mut texts))
        .collect();
    // Splits make more than the cluster was formed with.
    let seen = events.iter().filter_map(|event| group_of(&event.what, &BTreeMap::new()));
    let all: BTreeSet<GroupId> = config.group_ids().chain(seen).collect();
    let groups: Vec<GroupId> = if choice.groups.is_empty() {
        all.iter().copied().collect()
    } else {
        choice.groups.clone()
    };
    json!({
        "seed": story.seed,
        "command": story.command,
        "failure": story.failure,
        "end": story.end_us.max(events.last().map_or(0, |event| event.at_us)),
        "duration": config.duration_us,
        "nodes": config.nodes,
        "cores": config.cores,
        "groups": groups.iter().map(|group| json!([group.get(), config.core_of(*group).get()]))
            .collect::<Vec<_>>(),
        "all_groups": all.len(),
        "clients": config.clients,
        "outside_model": config.is_outside_model(),
        "all_events": events.len(),
        "full_from": chosen.full.map(|(from, _)| from),
        "full_to": chosen.full.map(|(_, to)| to),
        "pulses": chosen.pulses.filter(|_| chosen.are_pulses_cut),
        "is_cut_before": chosen.is_cut_before,
        "is_cut_behind": chosen.is_cut_behind,
        "texts": texts.all,
        "events": shown,
    })
}

/// An event as the page reads it: its time, its kind, and what belongs to the kind.
fn row(event: &Event, texts: &mut Texts) -> Value {
    let node = |node: &Option<NodeId>| node.map_or(0, NodeId::get);
    let t = event.at_us;
    match &event.what {
        What::Sent { message, from, to, group, term, kind, text } => json!([
            t,
            "sent",
            message,
            from.node.get(),
            from.core.get(),
            to.get(),
            group.get(),
            term.get(),
            texts.place(kind),
            texts.place(text)
        ]),
        What::Received { message, at } => json!([t, "received", message, at.node.get()]),
        What::Lost { message, why } => json!([t, "lost", message, texts.place(why)]),
        What::Pulse { from, to, sent_us, text, lost } => json!([
            t,
            "pulse",
            from.get(),
            to.get(),
            sent_us,
            texts.place(text),
            lost.map(|why| texts.place(why))
        ]),
        What::Role { at, group, role, term, leader } => json!([
            t,
            "role",
            at.node.get(),
            group.get(),
            texts.place(role),
            term.get(),
            node(leader)
        ]),
        What::Log { at, group, last, durable, commit } => {
            json!([t, "log", at.node.get(), group.get(), last.get(), durable.get(), commit.get()])
        }
        What::Fault { number, trouble, begins } => {
            let (kind, nodes) = words::place(trouble);
            let nodes: Vec<u64> = nodes.into_iter().map(NodeId::get).collect();
            let text = texts.place(&words::trouble(trouble));
            json!([t, "fault", number, begins, text, kind, nodes])
        }
        What::Calm => json!([t, "calm"]),
        What::Started { node, incarnation } => {
            json!([t, "started", node.get(), incarnation.get()])
        }
        What::Ended { node, why, by_power_loss } => {
            json!([t, "ended", node.get(), texts.place(why), by_power_loss])
        }
        What::Node { node, text } => json!([t, "node", node.get(), texts.place(text)]),
        What::Client { client, group, phase, text } => {
            let (phase, from) = match phase {
                Phase::Asks => ("asks", 0),
                Phase::Answered(from) => ("answered", from.get()),
                Phase::GivesUp => ("gives up", 0),
            };
            json!([t, "client", client, group.get(), phase, from, texts.place(text)])
        }
        What::Asked { client, group, to } => {
            json!([t, "asked", client, group.get(), to.get()])
        }
    }
}
