//! One chart as an SVG element: axes, lines, marks, and for each point what the page's script tells
//! of it. It knows no run. Pure.

use std::fmt::Write as _;

/// How values lie along an axis.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Scale {
    /// Equal differences are equally far apart, from 0 on.
    Linear,
    /// Equal ratios are.
    Log,
    /// Percentiles: each nine as far from the next.
    Tail,
}

/// What stands along an axis.
#[derive(Clone, Copy, Debug)]
pub struct Axis {
    /// What it is.
    pub label: &'static str,
    /// How values lie.
    pub scale: Scale,
    /// How a value is told.
    pub tell: fn(f64) -> String,
}

/// A line of a chart.
#[derive(Clone, Debug)]
pub struct Line {
    /// What the legend says.
    pub name: String,
    /// Its points from left to right.
    pub points: Vec<(f64, f64)>,
}

/// A chart.
#[derive(Clone, Debug)]
pub struct Chart {
    /// Its heading.
    pub title: &'static str,
    /// To the right.
    pub x: Axis,
    /// Upwards.
    pub y: Axis,
    /// Lines, in the order of the legend.
    pub lines: Vec<Line>,
    /// Places along `x` that are named.
    pub marks: Vec<(f64, String)>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 340.0;
const LEFT: f64 = 76.0;
const RIGHT: f64 = 16.0;
const TOP: f64 = 14.0;
/// The lowest place of a line.
const FLOOR: f64 = HEIGHT - 46.0;
/// So many line colours does the page's style have.
const COLOURS: usize = 9;
/// The last nine that a percentile axis tells apart.
const NINES_MAX: f64 = 7.0;

impl Scale {
    /// Where a value lies, before it is fitted into the chart.
    fn place(self, value: f64) -> f64 {
        match self {
            Self::Linear => value,
            Self::Log => value.max(1e-3).log10(),
            Self::Tail => {
                let left = (100.0 - value).max(0.0) / 100.0;
                if left > 0.0 { (-left.log10()).min(NINES_MAX) } else { NINES_MAX }
            }
        }
    }

    /// Values that are worth a line, between two places.
    fn ticks(self, from: f64, to: f64) -> Vec<f64> {
        match self {
            Self::Linear => {
                let step = nice((to - from).max(1e-9) / 6.0);
                let first = (from / step).ceil();
                (0..20).map(|n| (first + f64::from(n)) * step).filter(|v| *v <= to).collect()
            }
            Self::Log => {
                let each: &[f64] = if to - from > 3.0 { &[1.0] } else { &[1.0, 2.0, 5.0] };
                let powers = (-3i32..16).flat_map(|n| each.iter().map(move |m| m * 10f64.powi(n)));
                powers.filter(|value| (from..=to).contains(&value.log10())).collect()
            }
            Self::Tail => [0.0, 50.0, 90.0, 99.0, 99.9, 99.99, 99.999, 99.9999]
                .into_iter()
                .filter(|value| self.place(*value) <= to)
                .collect(),
        }
    }
}

/// A round number that is not below `least`.
fn nice(least: f64) -> f64 {
    let power = 10f64.powf(least.log10().floor());
    let round = [1.0, 2.0, 5.0, 10.0].map(|n| n * power);
    round.into_iter().find(|n| *n >= least).unwrap_or(least)
}

/// The bounds of an axis, a little wider than what lies on it.
fn bounds(scale: Scale, values: impl Iterator<Item = f64>) -> (f64, f64) {
    let places = values.map(|value| scale.place(value));
    let (mut from, mut to) =
        places.fold((f64::INFINITY, f64::NEG_INFINITY), |(from, to), p| (from.min(p), to.max(p)));
    if from > to {
        (from, to) = (0.0, 1.0);
    }
    match scale {
        Scale::Linear => (from.min(0.0), if to > 0.0 { to * 1.05 } else { 1.0 }),
        Scale::Log => (from - 0.1, to + 0.1),
        Scale::Tail => (0.0, to.max(1.0)),
    }
}

/// Where values lie in a chart.
struct Frame {
    scales: (Scale, Scale),
    x_bounds: (f64, f64),
    y_bounds: (f64, f64),
}

impl Frame {
    fn of(chart: &Chart) -> Self {
        let points = || chart.lines.iter().flat_map(|line| line.points.iter());
        let marks = chart.marks.iter().map(|(x, _)| *x);
        // What has no distance left to 100 % stands where the last point before it stands.
        let has_place = |x: &f64| chart.x.scale != Scale::Tail || *x < 100.0;
        let xs = points().map(|(x, _)| *x).chain(marks).filter(has_place);
        let is_drawn = |y: &f64| chart.y.scale != Scale::Log || *y > 0.0;
        let ys = points().map(|(_, y)| *y).filter(is_drawn);
        Self {
            scales: (chart.x.scale, chart.y.scale),
            x_bounds: bounds(chart.x.scale, xs),
            y_bounds: bounds(chart.y.scale, ys),
        }
    }

    fn x(&self, value: f64) -> f64 {
        LEFT + part(self.x_bounds, self.scales.0.place(value)) * (WIDTH - LEFT - RIGHT)
    }

    fn y(&self, value: f64) -> f64 {
        FLOOR - part(self.y_bounds, self.scales.1.place(value)) * (FLOOR - TOP)
    }
}

/// Which part of the way between two bounds a place is.
fn part((from, to): (f64, f64), place: f64) -> f64 {
    if to > from { ((place - from) / (to - from)).clamp(0.0, 1.0) } else { 0.5 }
}

impl Chart {
    /// The chart as markup.
    #[must_use]
    pub fn svg(&self) -> String {
        let frame = Frame::of(self);
        let title = escape(self.title);
        let mut out = format!(
            "<figure><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} {HEIGHT}\" \
             role=\"img\" aria-label=\"{title}\">\n"
        );
        self.draw_axes(&mut out, &frame);
        for (x, name) in &self.marks {
            let x = frame.x(*x);
            add(&mut out, format_args!("<path class=\"mark\" d=\"M{x:.1} {TOP}V{FLOOR}\"/>"));
            text(&mut out, "mark", (x + 5.0, TOP + 12.0), name);
        }
        for (at, line) in self.lines.iter().enumerate() {
            draw(&mut out, self, line, at % COLOURS, &frame);
        }
        add(&mut out, format_args!("<path class=\"cursor\" d=\"M0 {TOP}V{FLOOR}\"/></svg>\n"));
        out += "<p class=\"legend\">";
        for (at, line) in self.lines.iter().enumerate() {
            let (colour, name) = (at % COLOURS, escape(&line.name));
            add(&mut out, format_args!("<span><i class=\"key{colour}\"></i>{name}</span> "));
        }
        out + "</p><p class=\"told\"></p></figure>\n"
    }

    fn draw_axes(&self, out: &mut String, frame: &Frame) {
        let right = WIDTH - RIGHT;
        for tick in self.x.scale.ticks(frame.x_bounds.0, frame.x_bounds.1) {
            let x = frame.x(tick);
            add(out, format_args!("<path class=\"grid\" d=\"M{x:.1} {TOP}V{FLOOR}\"/>"));
            text(out, "below", (x, FLOOR + 16.0), &(self.x.tell)(tick));
        }
        for tick in self.y.scale.ticks(frame.y_bounds.0, frame.y_bounds.1) {
            let y = frame.y(tick);
            add(out, format_args!("<path class=\"grid\" d=\"M{LEFT} {y:.1}H{right}\"/>"));
            text(out, "beside", (LEFT - 6.0, y + 4.0), &(self.y.tell)(tick));
        }
        text(out, "below axis", (f64::midpoint(LEFT, right), HEIGHT - 8.0), self.x.label);
        text(out, "axis", (4.0, TOP - 2.0), self.y.label);
    }
}

fn draw(out: &mut String, chart: &Chart, line: &Line, colour: usize, frame: &Frame) {
    let (mut path, mut told) = (String::new(), String::new());
    for (x, y) in &line.points {
        let (space, bar) = if path.is_empty() { ("", "") } else { (" ", "|") };
        add(&mut path, format_args!("{space}{:.1},{:.1}", frame.x(*x), frame.y(*y)));
        add(&mut told, format_args!("{bar}{}: {}", (chart.x.tell)(*x), (chart.y.tell)(*y)));
    }
    let (name, told) = (escape(&line.name), escape(&told));
    let data = format!("data-name=\"{name}\" data-told=\"{told}\"");
    add(out, format_args!("<polyline class=\"line{colour}\" {data} points=\"{path}\"/>\n"));
    // A line of one point has no length.
    if let [(x, y)] = line.points[..] {
        let (x, y) = (frame.x(x), frame.y(y));
        let place = format!("cx=\"{x:.1}\" cy=\"{y:.1}\"");
        add(out, format_args!("<circle class=\"dot{colour}\" {place} r=\"3\"/>\n"));
    }
}

pub(super) fn text(out: &mut String, class: &str, (x, y): (f64, f64), text: &str) {
    let text = escape(text);
    add(out, format_args!("<text class=\"{class}\" x=\"{x:.1}\" y=\"{y:.1}\">{text}</text>\n"));
}

/// A text that markup does not take for markup.
#[must_use]
pub fn escape(text: &str) -> String {
    let pairs = [("&", "&amp;"), ("<", "&lt;"), (">", "&gt;"), ("\"", "&quot;")];
    pairs.iter().fold(text.to_owned(), |text, (from, to)| text.replace(from, to))
}

pub(super) fn add(out: &mut String, text: std::fmt::Arguments<'_>) {
    out.write_fmt(text).expect("invariant: writing to a string does not fail");
}

/// Microseconds in the unit that suits them.
#[must_use]
pub fn tell_us(us: f64) -> String {
    let short = |n: f64| {
        let text = format!("{n:.2}");
        text.trim_end_matches('0').trim_end_matches('.').to_owned()
    };
    if us < 1e3 {
        format!("{} µs", short(us))
    } else if us < 1e6 {
        format!("{} ms", short(us / 1e3))
    } else {
        format!("{} s", short(us / 1e6))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn chart(lines: Vec<Line>) -> Chart {
        Chart {
            title: "A <b> title",
            x: Axis { label: "percentile", scale: Scale::Tail, tell: |x| format!("{x}") },
            y: Axis { label: "latency", scale: Scale::Log, tell: tell_us },
            lines,
            marks: Vec::new(),
        }
    }

    #[test]
    fn each_nine_is_as_far_from_the_next() {
        let place = |percentile| Scale::Tail.place(percentile);
        assert!((place(90.0) - 1.0).abs() < 1e-9 && (place(99.0) - 2.0).abs() < 1e-9);
        assert!((place(99.9) - 3.0).abs() < 1e-9);
        assert!(place(100.0).is_finite());
    }

    #[test]
    fn lines_lie_inside_and_higher_values_are_higher() {
        let points = vec![(0.0, 100.0), (90.0, 1000.0), (99.0, 5000.0), (100.0, 20_000.0)];
        let svg = chart(vec![Line { name: "a\"b".into(), points }]).svg();
        assert!(!svg.contains("<b>") && svg.contains("data-name=\"a&quot;b\""), "{svg}");
        let path = svg.split(" points=\"").nth(1).unwrap().split('"').next().unwrap();
        let drawn: Vec<(f64, f64)> = path
            .split(' ')
            .map(|point| point.split_once(',').unwrap())
            .map(|(x, y)| (x.parse().unwrap(), y.parse().unwrap()))
            .collect();
        assert_eq!(drawn.len(), 4);
        assert!(drawn.iter().all(|(x, y)| (LEFT..WIDTH).contains(x) && (0.0..HEIGHT).contains(y)));
        assert!(drawn.windows(2).all(|two| two[0].0 <= two[1].0 && two[0].1 > two[1].1));
        assert!(svg.contains("99: 5 ms|100: 20 ms"));
    }

    #[test]
    fn nothing_to_draw_is_an_empty_chart() {
        let svg = chart(Vec::new()).svg();
        assert!(svg.contains("<svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
    }

    #[test]
    fn times_are_told_in_the_unit_that_suits_them() {
        for (us, told) in [(0.5, "0.5 µs"), (250.0, "250 µs"), (1500.0, "1.5 ms"), (3e6, "3 s")] {
            assert_eq!(tell_us(us), told);
        }
    }
}
