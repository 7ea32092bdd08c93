//! The page of a run holds all that happened, stays small, and stands alone, whatever texts say.

#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

use oarlock_sim::page::{Choice, Story, write};
use oarlock_sim::trace::{Event, What};
use oarlock_sim::{Config, Overrides, World, finish};
use oarlock_types::{GroupId, NodeId};
use serde_json::Value;

fn world(seed: u64) -> World {
    let overrides = Overrides { seconds: Some(9), groups: Some(3), ..Overrides::default() };
    let mut world = World::traced(seed, Config::swarm(seed, &overrides), true);
    let _ = finish(&mut world);
    world
}

fn story(world: &World, failure: Option<&str>) -> Story {
    let command = "oarlock-sim --seed 42".to_owned();
    Story { seed: 42, command, failure: failure.map(str::to_owned), end_us: world.now_us() }
}

fn page(world: &World, choice: &Choice) -> String {
    write(&story(world, None), &world.config, world.trace.events(), choice)
}

/// What the page's own script reads.
fn data(page: &str) -> Value {
    let (_, rest) = page.split_once(r#"<script type="application/json" id="data">"#).unwrap();
    serde_json::from_str(rest.split_once("</script>").unwrap().0).unwrap()
}

fn rows(data: &Value) -> &Vec<Value> {
    data["events"].as_array().unwrap()
}

#[test]
fn every_event_is_on_the_page_in_order() {
    let world = world(42);
    let data = data(&page(&world, &Choice::default()));
    let events = world.trace.events();
    assert!(events.len() > 500, "only {} events", events.len());
    assert_eq!(rows(&data).len(), events.len());
    assert_eq!(data["all_events"], events.len());
    assert_eq!((&data["is_cut_before"], &data["is_cut_behind"]), (&false.into(), &false.into()));
    let text = |place: &Value| &data["texts"][usize::try_from(place.as_u64().unwrap()).unwrap()];
    let mut kinds = std::collections::BTreeSet::new();
    for (row, event) in rows(&data).iter().zip(events) {
        assert_eq!(row[0], event.at_us);
        kinds.insert(row[1].as_str().unwrap());
        #[allow(clippy::wildcard_enum_match_arm, reason = "a sample of the kinds")]
        match &event.what {
            What::Sent { message, from, to, group, term, kind, text: told } => {
                let numbers = [from.node.get(), from.core.get().into(), to.get(), group.get()];
                assert_eq!((&row[1], &row[2]), (&"sent".into(), &(*message).into()));
                for (place, number) in numbers.into_iter().enumerate() {
                    assert_eq!(row[3 + place], number);
                }
                assert_eq!(row[7], term.get());
                assert_eq!(
                    (text(&row[8]), text(&row[9])),
                    (&(*kind).into(), &told.as_str().into())
                );
            }
            What::Pulse { from, to, sent_us, text: told, lost } => {
                assert_eq!(row.as_array().unwrap()[2..5], [from.get(), to.get(), *sent_us]);
                assert_eq!(text(&row[5]), told);
                assert_eq!(row[6].is_null(), lost.is_none());
            }
            What::Role { at, role, term, .. } => {
                assert_eq!((&row[1], &row[2]), (&"role".into(), &at.node.get().into()));
                assert_eq!((text(&row[4]), &row[5]), (&(*role).into(), &term.get().into()));
            }
            What::Log { last, durable, commit, .. } => {
                let numbers = [last, durable, commit].map(|index| Value::from(index.get()));
                assert_eq!(row.as_array().unwrap()[4..7], numbers);
            }
            _ => {}
        }
    }
    let all = "asked calm client ended fault log lost node pulse received role sent started";
    assert!(kinds.into_iter().eq(all.split(' ')), "the run holds every kind of event");
}

#[test]
fn every_message_arrives_or_says_why_not_or_is_under_way() {
    let world = world(42);
    let mut open = std::collections::BTreeSet::new();
    for Event { what, .. } in world.trace.events() {
        if let What::Sent { message, .. } = what {
            open.insert(*message);
        } else if let What::Received { message, .. } | What::Lost { message, .. } = what {
            open.remove(message);
        }
    }
    let under_way = open.len();
    assert!(under_way < 40, "{under_way} messages have no end");
}

#[test]
fn the_page_stands_alone() {
    let page = page(&world(42), &Choice::default());
    assert!(page.starts_with("<!doctype html>"));
    assert!(page.contains("default-src 'none'"), "the browser itself forbids to load anything");
    for outside in ["http://", "https://", "src=", "@import", "url(", "fetch(", "import("] {
        assert!(!page.contains(outside), "the page says {outside}");
    }
    assert!(!page.contains("/*STYLE*/") && !page.contains("/*SCRIPT*/"));
}

#[test]
fn no_text_ends_an_element_of_the_page() {
    let mut world = world(42);
    let evil = "</script><script>alert(1)</script><!-- & \u{2028} \" \\ /*SCRIPT*/";
    let text = evil.to_owned();
    world.trace.push(world.now_us(), || What::Node { node: NodeId(1), text });
    let page =
        write(&story(&world, Some(evil)), &world.config, world.trace.events(), &Choice::default());
    assert_eq!(page.matches("</script>").count(), 2, "one for the data, one for the script");
    assert!(!page.contains("alert(1)</"));
    let data = data(&page);
    assert_eq!(data["failure"], evil);
    assert!(data["texts"].as_array().unwrap().contains(&evil.into()));
}

#[test]
fn a_long_run_stays_small_and_keeps_its_landmarks() {
    let world = world(42);
    let events = world.trace.events();
    let frame = write(&story(&world, None), &world.config, &[], &Choice::default()).len();
    let choice = Choice { bytes_max: Some(60_000), ..Choice::default() };
    let landmarks =
        events.iter().filter(|event| matches!(event.what, What::Role { .. } | What::Fault { .. }));
    let landmarks = landmarks.count();
    for failure in [None, Some("a property")] {
        let page = write(&story(&world, failure), &world.config, events, &choice);
        let bytes = page.len() - frame;
        assert!((20_000..66_000).contains(&bytes), "{bytes} bytes where 60,000 are allowed");
        let data = data(&page);
        assert!(rows(&data).len() < events.len());
        let kept = rows(&data).iter().filter(|row| row[1] == "role" || row[1] == "fault").count();
        assert_eq!(kept, landmarks);
        // The beginning of a run that went well, the end of one that failed; the page says so.
        let is_failed = failure.is_some();
        assert_eq!(
            (&data["is_cut_before"], &data["is_cut_behind"]),
            (&is_failed.into(), &(!is_failed).into())
        );
        let last = rows(&data).iter().rfind(|row| row[1] == "received").unwrap()[0].as_u64();
        let end = events.iter().rfind(|e| matches!(e.what, What::Received { .. })).unwrap().at_us;
        assert_eq!(last == Some(end), is_failed);
    }
}

#[test]
fn a_time_and_a_group_may_be_chosen() {
    let world = world(42);
    let groups = vec![GroupId(2)];
    let choice =
        Choice { from_us: Some(1_000_000), to_us: Some(2_000_000), groups, bytes_max: None };
    let data = data(&page(&world, &choice));
    let sent: Vec<&Value> = rows(&data).iter().filter(|row| row[1] == "sent").collect();
    assert!(!sent.is_empty());
    for row in sent {
        assert!((1_000_000..=2_000_000).contains(&row[0].as_u64().unwrap()), "{row}");
        assert_eq!(row[6], 2);
    }
    let early =
        rows(&data).iter().filter(|row| row[1] == "log" && row[0].as_u64() < Some(1_000_000));
    assert!(early.count() > 0, "what the logs were when the time begins");
    assert_eq!((&data["is_cut_before"], &data["is_cut_behind"]), (&true.into(), &true.into()));
}

#[test]
fn pulses_take_a_part_of_the_page_that_is_theirs() {
    let world = world(42);
    let choice = Choice { bytes_max: Some(200_000), ..Choice::default() };
    let data = data(&page(&world, &choice));
    let is_pulse = |event: &&Event| matches!(event.what, What::Pulse { .. });
    let all: Vec<&Event> = world.trace.events().iter().filter(is_pulse).collect();
    let shown: Vec<&Value> = rows(&data).iter().filter(|row| row[1] == "pulse").collect();
    assert!(shown.len() > 100 && shown.len() < all.len(), "{} of {}", shown.len(), all.len());
    let bytes: usize = shown.iter().map(|row| row.to_string().len()).sum();
    assert!(bytes < 200_000 / 8, "{bytes} bytes of rows");
    // From the first on without a gap, and the page says how far.
    for (row, event) in shown.iter().zip(&all) {
        assert_eq!(row[0], event.at_us);
    }
    assert_eq!(data["pulses"], serde_json::json!([shown[0][0], shown[shown.len() - 1][0]]));
    assert!(page(&world, &Choice::default()).contains(r#""pulses":null"#), "there is room for all");
}
