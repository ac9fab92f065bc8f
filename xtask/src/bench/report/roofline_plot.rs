//! Rooflines as SVG: what ops compute a second over what they compute for each byte of memory, below the lines that the
//! machine allows (Williams, Waterman and Patterson, 2009). Knows no rows.

use std::fmt::Write as _;

use super::plot::{Axis, escaped, open};
use crate::bench::recorded::figure;
use crate::bench::roof::{Roof, spoken};

/// An op at one size.
pub(super) struct Point {
    pub(super) name: String,
    /// Operations for each byte of memory.
    pub(super) intensity: f64,
    /// Thousands of millions of operations a second.
    pub(super) rate: f64,
}

/// One op at several sizes, with one label at the last.
pub(super) struct Series {
    pub(super) label: String,
    pub(super) points: Vec<Point>,
}

const WIDTH: f64 = 860.0;
const HEIGHT: f64 = 460.0;
const LEFT: f64 = 60.0;
const TOP: f64 = 30.0;
const BOTTOM: f64 = 40.0;
/// Where the frame ends and labels begin.
const RIGHT: f64 = 690.0;
const LABELS: f64 = RIGHT + 28.0;
/// Between two labels.
const LINE: f64 = 16.0;

/// All series in one frame with logarithmic axes, their labels beside it. Empty without any point.
pub(super) fn draw(title: &str, roof: &Roof, series: &[Series]) -> String {
    let points = || series.iter().flat_map(|series| &series.points);
    let Some(memory) = roof.memory().map(|per_second| per_second / 1e9) else { return String::new() };
    if points().next().is_none() {
        return String::new();
    }
    let used: Vec<(&str, f64)> = roof.arithmetic().map(|(name, per_second)| (name, per_second / 1e9)).collect();
    let ridges = used.iter().map(|(_, peak)| peak / memory);
    let across = points().map(|point| point.intensity).chain(ridges).collect::<Vec<_>>();
    let up = points().map(|point| point.rate).chain(used.iter().map(|(_, peak)| *peak)).collect::<Vec<_>>();
    let across = Axis::over(across.iter().copied(), LEFT, RIGHT);
    let up = Axis::over(up.iter().copied(), HEIGHT - BOTTOM, TOP);
    let mut svg = open(&escaped(title), WIDTH, HEIGHT);
    let _ = write!(svg, r#"<text x="{LEFT}" y="16">{}</text>"#, escaped(title));
    frame(&mut svg, &across, &up);
    roofs(&mut svg, &across, &up, memory, &used);
    for (number, series) in series.iter().enumerate() {
        let at = series.points.iter().map(|point| (across.at(point.intensity), up.at(point.rate)));
        let line: Vec<String> = at.map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, r#"<g class="c{}"><polyline points="{}"/>"#, number % 4, line.join(" "));
        for point in &series.points {
            let (x, y) = (across.at(point.intensity), up.at(point.rate));
            let told = format!("{}: {} Gop/s", point.name, figure(point.rate));
            let _ =
                write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3.5"><title>{}</title></circle>"#, escaped(&told));
        }
        svg += "</g>";
    }
    labels(&mut svg, &across, &up, series);
    svg + "</svg>"
}

fn frame(svg: &mut String, across: &Axis, up: &Axis) {
    let (width, height, bottom) = (RIGHT - LEFT, HEIGHT - TOP - BOTTOM, HEIGHT - BOTTOM);
    let _ = write!(svg, r#"<rect class="frame" x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/>"#);
    for (value, at) in across.ticks() {
        let _ = write!(svg, r#"<line class="grid" x1="{at:.1}" y1="{TOP}" x2="{at:.1}" y2="{bottom}"/>"#);
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{:.1}">{value}</text>"#, bottom + 16.0);
    }
    for (value, at) in up.ticks() {
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" y1="{at:.1}" x2="{RIGHT}" y2="{at:.1}"/>"#);
        let _ = write!(svg, r#"<text class="label" x="{:.1}" y="{:.1}">{value}</text>"#, LEFT - 6.0, at + 4.0);
    }
    let middle = (LEFT + RIGHT) / 2.0;
    let _ = write!(
        svg,
        r#"<text class="tick" x="{middle}" y="{:.1}">operations for each byte of memory</text>"#,
        HEIGHT - 6.0
    );
    let _ = write!(svg, r#"<text class="tick small" x="{LEFT}" y="{:.1}">Gop/s</text>"#, TOP - 1.0);
}

/// For each arithmetic: up with the bytes until it is the limit itself.
fn roofs(svg: &mut String, across: &Axis, up: &Axis, memory: f64, peaks: &[(&str, f64)]) {
    let highest = peaks.iter().map(|(_, peak)| *peak).fold(0.0, f64::max);
    let (low, high) = across.ends();
    // The slope begins where it enters the frame: at its left, or at its bottom.
    let start = low.max(up.ends().0 / memory);
    let slope = [(start, memory * start), (highest / memory, highest)].map(|(x, y)| (across.at(x), up.at(y)));
    let [(x1, y1), (x2, y2)] = slope;
    let _ = write!(svg, r#"<line class="roof" x1="{x1:.1}" y1="{y1:.1}" x2="{x2:.1}" y2="{y2:.1}"/>"#);
    // Above the line, where no op can be.
    let (x, y) = (x1 + 0.8 * (x2 - x1), y1 + 0.8 * (y2 - y1));
    let _ = write!(
        svg,
        r#"<text class="label soft small" x="{:.1}" y="{:.1}">memory, {} GB/s</text>"#,
        x - 8.0,
        y - 4.0,
        figure(memory)
    );
    for (name, peak) in peaks {
        let (ridge, y) = (across.at(peak / memory), up.at(*peak));
        let _ =
            write!(svg, r#"<line class="roof" x1="{ridge:.1}" y1="{y:.1}" x2="{:.1}" y2="{y:.1}"/>"#, across.at(high));
        let text = format!("{}, {} Gop/s", spoken(name), figure(*peak));
        let _ = write!(
            svg,
            r#"<text class="label soft small" x="{:.1}" y="{:.1}">{}</text>"#,
            RIGHT - 4.0,
            y - 4.0,
            escaped(&text)
        );
    }
}

/// Beside the frame, in the order in which the last points lie, each with a line to its point.
fn labels(svg: &mut String, across: &Axis, up: &Axis, series: &[Series]) {
    let mut ends: Vec<(f64, f64, usize)> = Vec::new();
    for (number, series) in series.iter().enumerate() {
        let last = series.points.iter().max_by(|a, b| a.intensity.total_cmp(&b.intensity));
        ends.extend(last.map(|point| (up.at(point.rate), across.at(point.intensity), number)));
    }
    ends.sort_by(|a, b| a.0.total_cmp(&b.0));
    let heights = spread_out(&ends.iter().map(|end| end.0).collect::<Vec<_>>());
    for ((y, x, number), label_y) in ends.into_iter().zip(heights) {
        let from = x + 5.0;
        let _ = write!(
            svg,
            r#"<polyline class="leader" points="{from:.1},{y:.1} {:.1},{y:.1} {:.1},{label_y:.1}"/>"#,
            RIGHT.max(from),
            LABELS - 4.0
        );
        let label = escaped(&series[number].label);
        let _ = write!(svg, r#"<g class="c{}"><circle cx="{LABELS}" cy="{label_y:.1}" r="3.5"/>"#, number % 4);
        let _ =
            write!(svg, r#"<text class="small" x="{:.1}" y="{:.1}">{label}</text></g>"#, LABELS + 7.0, label_y + 4.0);
    }
}

/// Places in their order, none nearer to the next than a line, as near as may be to where they were.
fn spread_out(sorted: &[f64]) -> Vec<f64> {
    let mut places = sorted.to_vec();
    let mut least = TOP;
    for place in &mut places {
        *place = place.max(least);
        least = *place + LINE;
    }
    let mut most = HEIGHT - BOTTOM;
    for place in places.iter_mut().rev() {
        *place = place.min(most);
        most = *place - LINE;
    }
    places
}

#[cfg(test)]
mod tests {
    use super::*;

    fn roof() -> Roof {
        Roof::of([("memory".into(), 1e9), ("int8_dot".into(), 100e9)])
    }

    fn series(label: &str, points: &[(f64, f64)]) -> Series {
        let point = |&(intensity, rate): &(f64, f64)| Point { name: label.into(), intensity, rate };
        Series { label: label.into(), points: points.iter().map(point).collect() }
    }

    fn attribute<'a>(text: &'a str, name: &str) -> &'a str {
        let rest = text.split(&format!(r#"{name}=""#)).nth(1).expect("the attribute is there");
        rest.split('"').next().expect("it ends")
    }

    #[test]
    fn an_op_that_reaches_both_limits_lies_on_the_ridge() {
        // 100 operations a byte at 100 Gop/s: all of 1 GB/s.
        let svg = draw("T", &roof(), &[series("a", &[(1.0, 0.5), (100.0, 100.0)])]);
        let roofs: Vec<&str> = svg.split(r#"class="roof""#).skip(1).collect();
        let (slope, flat) = (roofs[0], roofs[1]);
        assert_eq!((attribute(slope, "x2"), attribute(slope, "y2")), (attribute(flat, "x1"), attribute(flat, "y1")));
        let on_ridge = format!(r#"<circle cx="{}" cy="{}""#, attribute(flat, "x1"), attribute(flat, "y1"));
        assert!(svg.contains(&on_ridge), "{on_ridge}\n{svg}");
    }

    #[test]
    fn every_series_is_labelled_and_every_point_named() {
        let all = [series("a", &[(1.0, 0.5), (10.0, 5.0)]), series("<b>", &[(1.0, 0.5)])];
        let svg = draw("T", &roof(), &all);
        assert_eq!(svg.matches("<title>").count(), 1 + 3);
        assert!(svg.contains(">a</text>") && svg.contains(">&lt;b&gt;</text>") && !svg.contains("NaN"), "{svg}");
        assert_eq!(svg.matches("<g ").count(), svg.matches("</g>").count());
        assert_eq!(draw("T", &roof(), &[]), "");
        assert_eq!(draw("T", &Roof::default(), &all), "");
    }

    #[test]
    fn labels_keep_apart_and_inside() {
        let bottom = HEIGHT - BOTTOM;
        let check = |sorted: &[f64], expected: &[f64]| assert_eq!(spread_out(sorted), expected);
        check(&[100.0, 200.0], &[100.0, 200.0]);
        check(&[100.0, 101.0, 102.0], &[100.0, 116.0, 132.0]);
        check(&[bottom, bottom], &[bottom - LINE, bottom]);
        check(&[0.0], &[TOP]);
    }
}
