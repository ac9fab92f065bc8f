//! Plots as SVG, in the colours of the page that holds them. Knows no page.

use std::fmt::Write as _;

/// A ratio with its pairs, as a line of a plot.
pub(super) struct Ratio<'a> {
    pub(super) label: &'a str,
    pub(super) pairs: &'a [f64],
    pub(super) median: f64,
    /// The goal as it is written: "at least 1.2", "at most 0.6".
    pub(super) goal: Option<&'a str>,
}

const LINE: f64 = 24.0;
const LABELS: f64 = 330.0;
const WIDTH: f64 = 860.0;

/// Ratios under each other on one logarithmic axis: each pair a dot, the median a bar, the goal's side shaded.
pub(super) fn ratios(ratios: &[Ratio<'_>]) -> String {
    let values = ratios.iter().flat_map(|ratio| ratio.pairs.iter().copied().chain([ratio.median]));
    let goals = ratios.iter().filter_map(|ratio| Some(parse(ratio.goal?)?.1));
    let all: Vec<f64> = values.chain(goals).filter(|value| *value > 0.0).collect();
    let low = all.iter().copied().fold(0.5, f64::min) * 0.9;
    let high = all.iter().copied().fold(2.0, f64::max) * 1.1;
    let x = |value: f64| LABELS + (WIDTH - LABELS) * (value.clamp(low, high) / low).ln() / (high / low).ln();
    let height = LINE * (ratios.len() as f64 + 1.0);
    let mut svg = open("Ratios to the peers", WIDTH, height);
    for tick in [0.1, 0.2, 0.5, 1.0, 2.0, 5.0, 10.0, 20.0].into_iter().filter(|tick| (low..=high).contains(tick)) {
        let (at, class) = (x(tick), if tick == 1.0 { "one" } else { "grid" });
        let bottom = height - LINE;
        let _ = write!(svg, r#"<line class="{class}" x1="{at:.1}" y1="0" x2="{at:.1}" y2="{bottom}"/>"#);
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{:.1}">{tick}</text>"#, height - 8.0);
    }
    for (number, ratio) in ratios.iter().enumerate() {
        let middle = LINE * (number as f64 + 0.5);
        let top = middle - LINE / 2.0 + 2.0;
        if let Some((is_least, goal)) = ratio.goal.and_then(parse) {
            let (from, to) = if is_least { (x(goal), WIDTH) } else { (LABELS, x(goal)) };
            let (width, height) = (to - from, LINE - 4.0);
            let _ = write!(
                svg,
                r#"<rect class="goal" x="{from:.1}" y="{top:.1}" width="{width:.1}" height="{height:.1}"/>"#
            );
        }
        let _ = write!(svg, r#"<text x="0" y="{:.1}">{}</text>"#, middle + 4.0, escaped(ratio.label));
        for pair in ratio.pairs {
            let _ = write!(svg, r#"<circle cx="{:.1}" cy="{middle:.1}" r="3"/>"#, x(*pair));
        }
        let (at, bottom) = (x(ratio.median), top + LINE - 4.0);
        let _ = write!(svg, r#"<line class="median" x1="{at:.1}" y1="{top:.1}" x2="{at:.1}" y2="{bottom:.1}"/>"#);
    }
    svg + "</svg>"
}

/// One server's latency over the rate.
pub(super) struct Curve {
    pub(super) label: String,
    /// Rate and latency, in the order of the rates.
    pub(super) points: Vec<(f64, f64)>,
}

/// Curves in one frame with logarithmic axes, and their names.
pub(super) fn curves(title: &str, curves: &[Curve]) -> String {
    const WIDTH: f64 = 430.0;
    const HEIGHT: f64 = 260.0;
    const LEFT: f64 = 52.0;
    const RIGHT: f64 = 12.0;
    const TOP: f64 = 26.0;
    const BOTTOM: f64 = 24.0;
    let points =
        || curves.iter().flat_map(|curve| &curve.points).filter(|(rate, latency)| *rate > 0.0 && *latency > 0.0);
    if points().next().is_none() {
        return String::new();
    }
    let across = Axis::over(points().map(|(rate, _)| *rate), LEFT, WIDTH - RIGHT);
    let up = Axis::over(points().map(|(_, latency)| *latency), HEIGHT - BOTTOM, TOP);
    let mut svg = open(title, WIDTH, HEIGHT);
    let _ = write!(svg, r#"<text x="{LEFT}" y="14">{}</text>"#, escaped(title));
    let (width, height) = (WIDTH - LEFT - RIGHT, HEIGHT - TOP - BOTTOM);
    let _ = write!(svg, r#"<rect class="frame" x="{LEFT}" y="{TOP}" width="{width}" height="{height}"/>"#);
    for (value, at) in across.ticks() {
        let _ = write!(svg, r#"<text class="tick" x="{at:.1}" y="{:.1}">{value}</text>"#, HEIGHT - 8.0);
    }
    for (value, at) in up.ticks() {
        let _ = write!(svg, r#"<line class="grid" x1="{LEFT}" y1="{at:.1}" x2="{:.1}" y2="{at:.1}"/>"#, WIDTH - RIGHT);
        let _ = write!(svg, r#"<text class="label" x="{:.1}" y="{:.1}">{value}</text>"#, LEFT - 6.0, at + 4.0);
    }
    for (number, curve) in curves.iter().enumerate() {
        let at: Vec<(f64, f64)> = curve.points.iter().map(|(x, y)| (across.at(*x), up.at(*y))).collect();
        let line: Vec<String> = at.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
        let _ = write!(svg, r#"<g class="c{}"><polyline points="{}"/>"#, number % 4, line.join(" "));
        for (x, y) in &at {
            let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="3"/>"#);
        }
        // The names in the corner that the curves leave free, each with a mark of its curve's colour.
        let y = TOP + 18.0 * (number as f64 + 1.0);
        let _ = write!(svg, r#"<circle cx="{:.1}" cy="{:.1}" r="4"/>"#, LEFT + 14.0, y - 4.0);
        let _ = write!(svg, r#"<text x="{:.1}" y="{y:.1}">{}</text></g>"#, LEFT + 24.0, escaped(&curve.label));
    }
    svg + "</svg>"
}

/// A logarithmic axis between two places of the plot.
pub(super) struct Axis {
    low: f64,
    high: f64,
    from: f64,
    to: f64,
}

impl Axis {
    pub(super) fn over(values: impl Iterator<Item = f64> + Clone, from: f64, to: f64) -> Self {
        let low = values.clone().fold(f64::INFINITY, f64::min) / 1.2;
        let high = values.fold(0.0, f64::max) * 1.2;
        Self { low, high, from, to }
    }

    pub(super) fn at(&self, value: f64) -> f64 {
        let share = (value.clamp(self.low, self.high) / self.low).ln() / (self.high / self.low).ln();
        self.from + (self.to - self.from) * share
    }

    /// The values at its ends, the smaller first.
    pub(super) fn ends(&self) -> (f64, f64) {
        (self.low, self.high)
    }

    /// Round values on it, and where they lie.
    pub(super) fn ticks(&self) -> Vec<(f64, f64)> {
        let powers = (-3..7).map(|power| 10f64.powi(power));
        let round = powers.flat_map(|power| [1.0, 2.0, 5.0].map(|digit| digit * power));
        round.filter(|value| (self.low..=self.high).contains(value)).map(|value| (value, self.at(value))).collect()
    }
}

/// One figure over the rows in which it was recorded, from zero up.
pub(super) fn history(figures: &[f64]) -> String {
    const WIDTH: f64 = 120.0;
    const HEIGHT: f64 = 24.0;
    let max = figures.iter().copied().fold(f64::MIN_POSITIVE, f64::max);
    let step = (WIDTH - 8.0) / (figures.len() as f64 - 1.0).max(1.0);
    let point = |(number, figure): (usize, &f64)| {
        (4.0 + step * number as f64, HEIGHT - 3.0 - (HEIGHT - 6.0) * figure.max(0.0) / max)
    };
    let points: Vec<(f64, f64)> = figures.iter().enumerate().map(point).collect();
    let line: Vec<String> = points.iter().map(|(x, y)| format!("{x:.1},{y:.1}")).collect();
    let mut svg = open("History", WIDTH, HEIGHT);
    let _ = write!(svg, r#"<polyline points="{}"/>"#, line.join(" "));
    for (x, y) in points {
        let _ = write!(svg, r#"<circle cx="{x:.1}" cy="{y:.1}" r="2"/>"#);
    }
    svg + "</svg>"
}

/// The beginning of a plot.
pub(super) fn open(title: &str, width: f64, height: f64) -> String {
    format!(
        r#"<svg viewBox="0 0 {width} {height}" width="{width}" height="{height}" role="img"><title>{title}</title>"#
    )
}

/// Whether a goal is the least, and its figure.
fn parse(goal: &str) -> Option<(bool, f64)> {
    let at_least = goal.strip_prefix("at least ").map(|figure| (true, figure));
    let (is_least, figure) = at_least.or_else(|| goal.strip_prefix("at most ").map(|figure| (false, figure)))?;
    Some((is_least, figure.parse().ok()?))
}

/// Text as HTML and SVG take it.
pub(super) fn escaped(text: &str) -> String {
    text.replace('&', "&amp;").replace('<', "&lt;").replace('>', "&gt;").replace('"', "&quot;")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_ratio_of_one_lies_on_its_line_and_goals_are_shaded_on_their_side() {
        let ratio = |goal| Ratio { label: "a", pairs: &[1.0], median: 1.0, goal: Some(goal) };
        let svg = ratios(&[ratio("at least 1")]);
        let one = svg.split(r#"class="one" x1=""#).nth(1).and_then(|rest| rest.split('"').next()).expect("a line at 1");
        assert!(svg.contains(&format!(r#"<circle cx="{one}""#)), "{svg}");
        assert!(svg.contains(&format!(r#"class="goal" x="{one}""#)), "{svg}");
        assert!(ratios(&[ratio("at most 1")]).contains(&format!(r#"class="goal" x="{LABELS:.1}""#)));
        assert!(!ratios(&[ratio("none")]).contains("goal"));
    }

    #[test]
    fn curves_share_their_axes() {
        let curve = |label: &str, points: &[(f64, f64)]| Curve { label: label.into(), points: points.to_vec() };
        let svg = curves("T", &[curve("a", &[(1.0, 10.0), (10.0, 1000.0)]), curve("<b>", &[(10.0, 1000.0)])]);
        let line = svg.split(r#"points=""#).nth(1).and_then(|rest| rest.split('"').next()).expect("a line");
        let end = line.split(' ').nth(1).and_then(|point| point.split_once(',')).expect("two points");
        let dot = format!(r#"<circle cx="{}" cy="{}" r="3"/>"#, end.0, end.1);
        assert_eq!(svg.matches(&dot).count(), 2, "{svg}");
        assert!(svg.contains("&lt;b&gt;") && svg.contains(r#">100</text>"#), "{svg}");
        assert_eq!(curves("T", &[curve("none", &[])]), "");
    }

    #[test]
    fn a_history_stays_in_its_frame() {
        for figures in [&[1.0][..], &[0.0, 0.0], &[1e9, 1.0, 5.0]] {
            let svg = history(figures);
            assert_eq!(svg.matches("<circle").count(), figures.len());
            assert!(!svg.contains("NaN") && !svg.contains("inf"), "{svg}");
        }
    }
}
