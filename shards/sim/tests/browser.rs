//! A browser shows the page of a run, and its keys do what it says they do. Where there is no Chromium,
//! the tests say so and pass.

#![allow(clippy::disallowed_methods, reason = "it writes a page and starts a browser")]
#![allow(clippy::unwrap_used, reason = "a failure here is a failed test")]

mod chromium;

use std::path::PathBuf;

use chromium::{Browser, browser};
use oarlock_sim::page::{Choice, Story, write};
use oarlock_sim::trace::What;
use oarlock_sim::{Config, Overrides, Trouble, World, finish};
use serde_json::{Value, json};

impl Browser {
    fn state(&mut self) -> Value {
        self.value("(trace.paint(), trace.state())")
    }

    /// Presses a key as a person does.
    fn key(&mut self, key: &str) -> Value {
        let mut press = json!({"type": "keyDown", "key": key});
        if key.len() == 1 {
            press["text"] = key.into();
        }
        self.call("Input.dispatchKeyEvent", press);
        self.call("Input.dispatchKeyEvent", json!({"type": "keyUp", "key": key}));
        self.state()
    }
}

/// A run in which every leader is elected: no range is cut.
fn page(browser: &Browser, failure: Option<&str>, choice: &Choice) -> (PathBuf, World) {
    let mut config = run_42();
    config.faults.retain(|fault| !matches!(fault.trouble, Trouble::Cut(_)));
    page_of(browser, config, failure, choice)
}

fn run_42() -> Config {
    Config::swarm(42, &Overrides { seconds: Some(9), ..Overrides::default() })
}

fn page_of(
    browser: &Browser,
    config: Config,
    failure: Option<&str>,
    choice: &Choice,
) -> (PathBuf, World) {
    let mut world = World::traced(42, config, true);
    let _ = finish(&mut world);
    let (command, failure) = ("none".to_owned(), failure.map(str::to_owned));
    let story = Story { seed: 42, command, failure, end_us: world.now_us() };
    let path = browser.folder.join("run.html");
    let page = write(&story, &world.config, world.trace.events(), choice);
    std::fs::write(&path, page).unwrap();
    (path, world)
}

#[track_caller]
fn says(state: &Value, field: &str, words: &str) {
    let told = state[field].as_str().unwrap();
    assert!(told.contains(words), "{field} should say {words:?}: {told}");
}

#[test]
fn keys_and_mouse_lead_through_a_run() {
    let Some(mut browser) = browser("keys") else { return };
    let (path, world) = page(&browser, None, &Choice::default());
    browser.open(&path);
    let first = browser.state();
    assert!(first["hits"].as_u64() > Some(20), "next to nothing is drawn: {first}");
    assert_eq!(browser.value("trace.steps.length"), world.trace.events().len());
    let won = world.figures().elections;
    assert_eq!(browser.value("trace.campaigns.filter(c => c.won).length"), won);

    // An election, told so that a newcomer understands it.
    let election = browser.key("e");
    says(&election, "said", "becomes pre-candidate");
    for words in ["had no leader yet", "could I win?", "stands in term 1", "gives it the vote"] {
        says(&election, "story", words);
    }
    says(&election, "story", "That is a majority");
    let width = |state: &Value| state["to"].as_f64().unwrap() - state["from"].as_f64().unwrap();
    assert!(width(&election) < 1e6 && width(&election) < width(&first) / 10.0, "{election}");
    assert!(election["arrows"].as_u64() > Some(8), "the votes are drawn: {election}");

    // Steps on and back, through the message to its arrival.
    let step = browser.key("ArrowRight");
    assert!(step["step"].as_u64() > election["step"].as_u64());
    says(&step, "said", "PreVote");
    assert_eq!(browser.key("m")["type"], "received");
    browser.key("m");
    assert_eq!(browser.key("ArrowLeft")["step"], election["step"]);

    let closer = browser.key("+");
    assert!(width(&closer) < width(&election));
    assert!(width(&browser.key("0")) > width(&first) * 0.95);
    says(&browser.key("f"), "said", "Fault: ");
    let (group, other) = (browser.state()["group"].clone(), browser.key("g")["group"].clone());
    assert_ne!(group, other, "another group is shown");
    assert_eq!(browser.key("a")["group"], 0);
    assert_eq!(browser.key(" ")["isPlaying"], true);
    assert_eq!(browser.key(" ")["isPlaying"], false);
    // Pulses are no steps until they are asked for.
    let events = world.trace.events();
    let last = events.iter().rposition(|event| !matches!(event.what, What::Pulse { .. })).unwrap();
    assert_eq!(browser.key("End")["step"], last);

    // The wheel zooms, dragging moves, a click selects.
    let before = browser.key("Home");
    let more = json!({"deltaX": 0, "deltaY": -200});
    browser.mouse("mouseWheel", 500.0, 350.0, &more);
    browser.value("new Promise(done => requestAnimationFrame(() => setTimeout(done, 0)))");
    let near = browser.state();
    assert!(width(&near) < width(&before), "{near}");
    let held = json!({"button": "left", "buttons": 1, "clickCount": 1});
    browser.mouse("mousePressed", 500.0, 350.0, &held);
    browser.mouse("mouseMoved", 400.0, 350.0, &held);
    browser.mouse("mouseReleased", 400.0, 350.0, &held);
    let moved = browser.state();
    assert!(moved["from"].as_f64() > near["from"].as_f64(), "{moved}");
    browser.mouse("mousePressed", 450.0, 350.0, &held);
    browser.mouse("mouseReleased", 450.0, 350.0, &held);
    assert_ne!(browser.state()["step"], moved["step"]);
    assert_eq!(browser.thrown, Vec::<String>::new());
}

#[test]
fn pulses_are_drawn_when_they_are_asked_for() {
    let Some(mut browser) = browser("pulses") else { return };
    let (path, world) = page(&browser, None, &Choice::default());
    browser.open(&path);
    let is_pulse = |event: &&oarlock_sim::trace::Event| matches!(event.what, What::Pulse { .. });
    let pulses = world.trace.events().iter().filter(is_pulse).count();
    assert!(pulses > 1000, "only {pulses} pulses");
    assert_eq!(browser.value("trace.pulses.length"), pulses);
    let without = browser.state();
    assert_eq!(without["drawn"]["pulses"], 0);

    // However many there are, a bounded number is drawn.
    let with = browser.key("p");
    let drawn = with["drawn"]["pulses"].as_u64().unwrap();
    assert!((500..=3000).contains(&drawn), "{drawn} of {pulses} pulses");
    assert_eq!(with["arrows"].as_u64(), without["arrows"].as_u64().map(|arrows| arrows + drawn));

    // Closer up each of them is, and can be chosen, stepped to and read.
    browser.value("(trace.setWindow(2e6, 2.1e6), 1)");
    let under_way = "trace.pulses.filter(p => p.t <= 2.1e6 && p.end >= 2e6).length";
    let under_way = browser.value(under_way);
    let near = browser.state();
    assert!(under_way.as_u64() > Some(2), "{under_way} pulses in a tenth of a second");
    assert_eq!(near["drawn"]["pulses"], under_way);
    browser.value("(trace.goTo(trace.pulses.find(p => p.lost === null && p.end > 2e6).i), 1)");
    let chosen = browser.state();
    assert_eq!(chosen["type"], "pulse");
    says(&chosen, "said", "receives a pulse of");
    says(&chosen, "said", "supports");
    says(&chosen, "said", "A lease on the other side runs from when that pulse was sent");
    let lost = "(trace.goTo(trace.pulses.find(p => p.lost !== null).i), 1)";
    browser.value(lost);
    says(&browser.state(), "said", "is lost");

    assert_eq!(browser.key("p")["drawn"]["pulses"], 0);
    assert_ne!(browser.key("ArrowRight")["type"], "pulse");
    assert_eq!(browser.thrown, Vec::<String>::new());
}

#[test]
fn every_step_can_be_told_and_every_frame_drawn() {
    let Some(mut browser) = browser("all") else { return };
    let (path, world) = page_of(&browser, run_42(), None, &Choice::default());
    assert!(world.ranges.groups().count() > 10, "ranges are cut in it");
    browser.open(&path);
    let bad = browser.value(
        "trace.steps.map(s => { trace.goTo(s.i); return trace.state().said; })
            .filter(said => !said || /undefined|NaN|\\[object/.test(said)).slice(0, 5)",
    );
    assert_eq!(bad, json!([]));
    let bad = browser.value(
        "[0, ...trace.run.groups.map(g => g[0])].flatMap(group => { trace.setGroup(group);
            const begun = group ? trace.steps.find(s => s.group === group).t : 0;
            return [1, .1, .001].map(part => {
                trace.setWindow(begun, begun + (trace.run.end - begun) * part);
                trace.paint(); return trace.state().hits > 0; }); }).filter(ok => !ok)",
    );
    assert_eq!(bad, json!([]));
    assert_eq!(browser.thrown, Vec::<String>::new());
}

#[test]
fn a_failed_run_opens_at_its_failure_and_says_what_was_left_out() {
    let Some(mut browser) = browser("failed") else { return };
    let choice = Choice { bytes_max: Some(90_000), ..Choice::default() };
    let (path, _) =
        page(&browser, Some("at most one lease: n2 <b>holds</b> a lease of g1"), &choice);
    let dark = json!({"features": [{"name": "prefers-color-scheme", "value": "dark"}]});
    browser.call("Emulation.setEmulatedMedia", dark);
    browser.open(&path);
    let state = browser.state();
    assert_eq!(state["type"], "failure");
    assert_eq!(state["theme"], "dark");
    says(&state, "said", "at most one lease: n2 <b>holds</b> a lease of g1");
    says(&state, "left_out", "events are left out");
    let title = browser.value("document.title");
    assert_eq!(title, "Oarlock: seed 42 fails");
    browser.key("Home");
    assert_eq!(browser.key("F")["step"], browser.state()["step"], "no fault before the first step");
    assert_eq!(browser.value("(trace.goTo(trace.steps.length - 2), 1)"), 1);
    assert_eq!(browser.key("x")["type"], "failure");
    assert_eq!(browser.thrown, Vec::<String>::new());
}
