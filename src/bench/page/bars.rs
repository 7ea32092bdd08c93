//! Stacked bars as an SVG element: what a whole is made of, one bar under the other on one scale, with
//! the part and its share told where the pointer rests. It knows no run. Pure.

use super::chart::{add, escape, text};

/// A bar.
#[derive(Clone, Debug)]
pub struct Bar {
    /// What stands over it.
    pub name: String,
    /// Its parts from left to right. Parts of one name have one colour if all bars have the same names.
    pub parts: Vec<(&'static str, f64)>,
    /// A place that is marked, which may lie behind its end.
    pub mark: Option<f64>,
}

/// Bars under one heading.
#[derive(Clone, Debug)]
pub struct Bars {
    /// The heading.
    pub title: &'static str,
    /// How a part's length is told.
    pub tell: fn(f64) -> String,
    /// From top to bottom.
    pub bars: Vec<Bar>,
}

const WIDTH: f64 = 860.0;
/// From one bar to the next, and how much of it is the bar.
const ROW: f64 = 52.0;
const THICK: f64 = 24.0;
/// What a letter takes, about: a part's name is written where it has room.
const LETTER: f64 = 6.5;

impl Bars {
    /// The bars as markup.
    #[must_use]
    pub fn svg(&self) -> String {
        let title = escape(self.title);
        let height = ROW * self.bars.len() as f64 + 4.0;
        let mut out = format!(
            "<figure class=\"bars\"><figcaption>{title}</figcaption>\n<svg viewBox=\"0 0 {WIDTH} \
             {height}\" role=\"img\" aria-label=\"{title}\">\n"
        );
        let ends = self.bars.iter().map(|bar| bar.sum().max(bar.mark.unwrap_or_default()));
        let longest = ends.fold(0.0, f64::max);
        // A dashed line at the very end would lie half outside.
        let scale = if longest > 0.0 { (WIDTH - 2.0) / longest } else { 0.0 };
        for (at, bar) in self.bars.iter().enumerate() {
            bar.draw(&mut out, ROW * at as f64, scale, self.tell);
        }
        out += "</svg>\n<p class=\"legend\">";
        let widest = self.bars.iter().max_by_key(|bar| bar.parts.len());
        for (colour, (name, _)) in widest.iter().flat_map(|bar| &bar.parts).enumerate() {
            let name = escape(name);
            add(&mut out, format_args!("<span><i class=\"key{colour}\"></i>{name}</span> "));
        }
        out + "</p></figure>\n"
    }
}

impl Bar {
    fn sum(&self) -> f64 {
        self.parts.iter().map(|(_, length)| length).sum()
    }

    fn draw(&self, out: &mut String, top: f64, scale: f64, tell: fn(f64) -> String) {
        text(out, "mark", (0.0, top + 14.0), &self.name);
        let (top, whole) = (top + 20.0, self.sum().max(1e-9));
        let mut from = 0.0;
        for (colour, (name, length)) in self.parts.iter().enumerate() {
            let (name, width) = (escape(name), length * scale);
            let told = format!("{}, {:.0} %", tell(*length), 100.0 * length / whole);
            add(
                out,
                format_args!(
                    "<rect class=\"dot{colour}\" data-name=\"{name}\" x=\"{from:.1}\" y=\"{top}\" \
                     width=\"{width:.1}\" height=\"{THICK}\"><title>{name}: {told}</title></rect>\n"
                ),
            );
            if width > LETTER * name.chars().count() as f64 {
                text(out, "within", (from + width / 2.0, top + 16.0), &name);
            }
            from += width;
        }
        if let Some(mark) = self.mark {
            let (x, bottom) = (mark * scale, top + THICK + 3.0);
            add(out, format_args!("<path class=\"mark\" d=\"M{x:.1} {top}V{bottom}\"/>\n"));
        }
    }
}

#[cfg(test)]
mod tests {
    use super::super::chart::tell_us;
    use super::*;

    fn bars(bars: Vec<Bar>) -> String {
        Bars { title: "A <b> title", tell: tell_us, bars }.svg()
    }

    /// Where each part begins, and how long it is.
    fn drawn(svg: &str) -> Vec<(f64, f64)> {
        let number = |rect: &str, name: &str| {
            let value = rect.split(&format!(" {name}=\"")).nth(1).unwrap();
            value.split('"').next().unwrap().parse().unwrap()
        };
        svg.split("<rect").skip(1).map(|rect| (number(rect, "x"), number(rect, "width"))).collect()
    }

    #[test]
    fn parts_lie_side_by_side_on_one_scale() {
        let long = Bar { name: "l\"".into(), parts: vec![("a", 30.0), ("b", 10.0)], mark: None };
        let short =
            Bar { name: "s".into(), parts: vec![("a", 0.0), ("b", 20.0)], mark: Some(80.0) };
        let svg = bars(vec![long, short]);
        let unit = (WIDTH - 2.0) / 80.0;
        let wanted = [(0.0, 30.0), (30.0, 10.0), (0.0, 0.0), (0.0, 20.0)];
        for ((x, width), (at, length)) in drawn(&svg).into_iter().zip(wanted) {
            assert!((x - at * unit).abs() < 0.1 && (width - length * unit).abs() < 0.1, "{svg}");
        }
        assert_eq!(drawn(&svg).len(), 4);
        assert!(svg.contains("<title>a: 30 µs, 75 %</title>"), "{svg}");
        assert!(svg.contains("M858.0 "), "the mark is the longest: {svg}");
        assert!(!svg.contains("<b>") && svg.contains(">l&quot;</text>"), "{svg}");
    }

    #[test]
    fn nothing_to_draw_is_an_empty_figure() {
        for empty in [vec![], vec![Bar { name: "x".into(), parts: vec![("a", 0.0)], mark: None }]] {
            let svg = bars(empty);
            assert!(svg.contains("<svg") && !svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
