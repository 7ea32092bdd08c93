//! How rules are written, and which of them counts where.

use proptest::prelude::*;

use super::*;

fn rule(start: &'static str, end: &'static str, replicas: u8) -> Rule {
    let end = (!end.is_empty()).then(|| Bytes::from_static(end.as_bytes()));
    let (start, replicas) = (Bytes::from_static(start.as_bytes()), Some(replicas));
    Rule { start, end, replicas, ..Rule::default() }
}

fn pair(rule: &Rule) -> [Reply; 2] {
    [Reply::Bulk(key(&rule.start)), Reply::Bulk(rule.write().into())]
}

#[test]
fn a_rule_comes_back_as_it_was_written() {
    let mut all = rule("a\0\u{7f}", "b", 5);
    (all.leader_zone, all.pinned) = (Some("east".to_owned()), vec![NodeId(1), NodeId(4)]);
    let line = r#"{"end":"62","replicas":5,"leader_zone":"east","pinned":[1,4]}"#;
    assert_eq!((key(&all.start), all.write().as_str()), ("rule/a\0\u{7f}".into(), line));
    let least = Rule { pinned: vec![NodeId(2)], ..Rule::default() };
    assert_eq!((key(b""), least.write().as_str()), ("rule/".into(), r#"{"pinned":[2]}"#));
    for rule in [all, least] {
        assert_eq!(Rule::read(&key(&rule.start), rule.write().as_bytes()), Some(rule));
    }
}

#[test]
fn a_field_that_a_later_version_adds_is_passed_over_and_what_is_no_rule_is_none() {
    let read = |key: &str, value: &str| Rule::read(key.as_bytes(), value.as_bytes());
    let known = read("rule/k", r#"{"replicas":3,"learners":2}"#);
    assert_eq!(known, Some(rule("k", "", 3)));
    for (key, value) in [
        ("rule/k", ""),
        ("rule/k", "7"),
        ("rule/k", r#"{"end":"6"}"#),
        ("rule/k", r#"{"end":"6b"}"#),
        ("rule/k", r#"{"replicas":4}"#),
        ("rule/k", r#"{"replicas":0}"#),
        ("role/k", "{}"),
    ] {
        assert_eq!(read(key, value), None, "{key} {value}");
    }
}

#[test]
fn rules_are_read_on_only_where_there_may_be_more() {
    let many: Vec<Rule> = (0..RULES_PER_READ)
        .map(|at| Rule { start: format!("{at:05}").into(), replicas: Some(5), ..Rule::default() })
        .collect();
    let reply = |rules: &[Rule]| Reply::Array(rules.iter().flat_map(pair).collect());
    assert_eq!(found(&reply(&many[1..])), (many[1..].to_vec(), None));
    assert_eq!(found(&reply(&many)), (many.clone(), Some(Bytes::from_static(b"01023\0"))));
    let long = Rule { start: vec![b'x'; LONG_READ_BYTES].into(), ..rule("", "", 1) };
    let next = [&long.start, &b"\0"[..]].concat();
    assert_eq!(found(&reply(std::slice::from_ref(&long))), (vec![long], Some(next.into())));
    assert_eq!(found(&reply(&[])), (Vec::new(), None));
    assert_eq!(found(&Reply::Nil), (Vec::new(), None));
    let scan = from(b"01023\0");
    assert!(matches!(scan, Command::Scan { start, .. } if start == "rule/01023\0"));
}

#[test]
fn of_two_rules_that_have_a_key_the_one_that_begins_last_counts() {
    // One within another, one that reaches beyond its neighbour, and one that ends where another begins.
    let set =
        RuleSet::new([rule("b", "p", 3), rule("d", "f", 5), rule("m", "r", 1), rule("r", "", 5)]);
    let replicas = |key: &str| set.of_key(key.as_bytes()).and_then(|rule| rule.replicas);
    for (keys, wanted) in [
        (["", "a"], None),
        (["b", "c"], Some(3)),
        (["d", "ezzz"], Some(5)),
        (["f", "lzzz"], Some(3)),
        (["m", "qzzz"], Some(1)),
        (["r", "zzzz"], Some(5)),
    ] {
        assert_eq!(keys.map(replicas), [wanted; 2], "{keys:?}");
    }
    assert_eq!(RuleSet::default().of_key(b"k"), None);
}

fn border(set: &RuleSet, start: &str, end: &str) -> Option<String> {
    let end = (!end.is_empty()).then_some(end.as_bytes());
    let border = set.of_range(start.as_bytes(), end, 3).border?;
    Some(String::from_utf8(border.to_vec()).unwrap())
}

#[test]
fn a_range_is_cut_at_the_first_of_its_keys_that_is_under_other_rules() {
    let set = RuleSet::new([rule("d", "f", 5), rule("f", "h", 5), rule("m", "p", 3)]);
    let borders = |start, end| border(&set, start, end);
    assert_eq!(borders("", ""), Some("d".to_owned()));
    assert_eq!(borders("a", "d"), None, "it ends where the rule begins");
    assert_eq!(borders("a", "d\0"), Some("d".to_owned()));
    assert_eq!(borders("d", "f"), None);
    assert_eq!(borders("e", ""), Some("h".to_owned()), "two spans of one kind have no border");
    assert_eq!(borders("h", ""), None, "that rule says what holds without it");
    assert_eq!(border(&RuleSet::default(), "", ""), None);
}

#[test]
fn a_range_is_under_the_rules_of_its_first_key_and_told_whose_they_are() {
    let mut inner = rule("d", "f", 5);
    inner.leader_zone = Some("east".to_owned());
    let open = Rule { start: "m".into(), pinned: vec![NodeId(7)], ..Rule::default() };
    let set = RuleSet::new([inner, open]);
    let of = |start: &str| set.of_range(start.as_bytes(), None, 3);
    let plain = Rules { replicas: 3, ..Rules::default() };
    assert_eq!((of("c").rules, of("c").span), (plain, None));
    let east = Rules { replicas: 5, leader_zone: Some("east".to_owned()), pinned: Vec::new() };
    assert_eq!((of("e").rules, of("e").span.unwrap().as_str()), (east, r#"keys from "d" to "f""#));
    let pinned = Rules { replicas: 3, leader_zone: None, pinned: vec![NodeId(7)] };
    assert_eq!((of("z").rules, of("z").span.unwrap().as_str()), (pinned, r#"keys from "m" on"#));
}

#[test]
fn spans_are_told_in_words_and_know_what_they_overlap() {
    assert_eq!(rule("", "", 1).span(), "all keys");
    assert_eq!(rule("", "m", 1).span(), r#"keys before "m""#);
    let middle = rule("f", "m", 1);
    for (start, end, wanted) in
        [("", "", true), ("a", "f", false), ("a", "f0", true), ("m", "", false), ("l", "z", true)]
    {
        assert_eq!(middle.overlaps(&rule(start, end, 1)), wanted, "{start} {end}");
        assert_eq!(rule(start, end, 1).overlaps(&middle), wanted, "{start} {end}");
    }
}

proptest! {
    /// The pieces say what looking at each rule by itself says; a range has no border before the one that is
    /// told, and other rules there.
    #[test]
    fn every_key_is_under_the_rule_that_begins_last(
        spans in proptest::collection::vec((0..20_u8, 1..20_u8, 0..3_usize, any::<bool>()), 0..12),
        range in (0..20_u8, 1..20_u8),
    ) {
        let rule = |&(start, length, count, is_open): &(u8, u8, usize, bool)| Rule {
            start: vec![start].into(),
            end: (!is_open).then(|| vec![start + length].into()),
            replicas: Some(REPLICAS[count]),
            ..Rule::default()
        };
        let rules: Vec<Rule> = spans.iter().map(rule).collect();
        let set = RuleSet::new(rules.clone());
        let of = |key: u8| {
            let has = |rule: &&Rule| {
                rule.start[0] <= key && rule.end.as_ref().is_none_or(|end| key < end[0])
            };
            // Of two that begin alike only the last was kept.
            let kept = rules.iter().enumerate().filter(|(at, rule)| {
                !rules[at + 1..].iter().any(|later| later.start == rule.start)
            });
            kept.map(|(_, rule)| rule).filter(has).max_by_key(|rule| rule.start.clone())
        };
        for key in 0..40 {
            prop_assert_eq!(set.of_key(&[key]), of(key), "{}", key);
        }
        let (start, end) = (range.0, range.0 + range.1);
        let count = |key| of(key).map_or(3, |rule| rule.replicas.unwrap());
        let ruled = set.of_range(&[start], Some(&[end]), 3);
        prop_assert_eq!(ruled.rules.replicas, count(start));
        let border = (start..end).find(|key| count(*key) != count(start));
        prop_assert_eq!(ruled.border, border.map(|key| Bytes::from(vec![key])));
    }
}
