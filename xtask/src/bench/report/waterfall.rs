//! Sums as waterfalls: a bar for each part, which begins where the one above it ends. Knows no page.

use std::fmt::Write as _;

use super::plot::{escaped, open};
use crate::bench::recorded::{Part, figure};

const LINE: f64 = 22.0;
const LABELS: f64 = 170.0;
/// Room for the figure behind a bar that ends at the right.
const FIGURES: f64 = 110.0;
const WIDTH: f64 = 860.0;

/// The parts of a figure in this unit, drawn to a scale on which `full` fills the width.
pub(super) fn waterfall(title: &str, unit: &str, parts: &[Part], full: f64) -> String {
    let x = |value: f64| LABELS + (WIDTH - LABELS - FIGURES) * (value / full).clamp(0.0, 1.0);
    let mut svg = open(&escaped(title), WIDTH, LINE * (parts.len() as f64 + 1.0));
    let mut sum = 0.0;
    for (number, part) in parts.iter().enumerate() {
        let begin = sum;
        sum += part.value;
        bar(&mut svg, number, &part.name, (x(begin), x(sum)), &format!("{} {unit}", figure(part.value)));
    }
    svg += r#"<g class="sum">"#;
    bar(&mut svg, parts.len(), "total", (x(0.0), x(sum)), &format!("{} {unit}", figure(sum)));
    svg + "</g></svg>"
}

fn bar(svg: &mut String, number: usize, name: &str, (from, to): (f64, f64), value: &str) {
    let top = LINE * number as f64;
    let middle = top + LINE / 2.0 + 4.0;
    // What is too short to be seen still has its place.
    let width = (to - from).max(1.0);
    let height = LINE - 6.0;
    let _ = write!(svg, r#"<text x="0" y="{middle:.1}">{}</text>"#, escaped(name));
    let _ = write!(
        svg,
        r#"<rect class="part" x="{from:.1}" y="{:.1}" width="{width:.1}" height="{height:.1}"/>"#,
        top + 3.0
    );
    let _ = write!(svg, r#"<text x="{:.1}" y="{middle:.1}">{}</text>"#, to + 6.0, escaped(value));
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bar_begins_where_the_one_above_it_ends() {
        let part = |name: &str, value| Part { name: name.into(), value };
        let svg = waterfall("a <b>", "ms", &[part("one", 10.0), part("two", 30.0), part("none", 0.0)], 80.0);
        let rects: Vec<(f64, f64)> =
            svg.split("<rect").skip(1).map(|rect| (attribute(rect, "x"), attribute(rect, "width"))).collect();
        // 580 units of width for 80 ms.
        assert_eq!(rects, [(170.0, 72.5), (242.5, 217.5), (460.0, 1.0), (170.0, 290.0)]);
        assert!(svg.contains("a &lt;b&gt;") && svg.contains(">30.0 ms<") && svg.contains(">40.0 ms<"), "{svg}");
    }

    fn attribute(rect: &str, name: &str) -> f64 {
        let rest = rect.split(&format!(" {name}=\"")).nth(1).expect("it has one");
        rest.split('"').next().and_then(|value| value.parse().ok()).expect("a number")
    }
}
