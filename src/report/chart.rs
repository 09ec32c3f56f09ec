//! Draws curves over one another as SVG. Colours and dashes are classes of the style sheet.
//!
//! Where a column has several points, the area between their lowest and highest is drawn, and their mean as the line.

use serde_json::{Value, json};

use crate::base::numbers::{bytes, grouped, significant};
use crate::report::curves::{Bucket, buckets};
use crate::report::html::{cut, escape};

/// Values beyond are drawn at the edge: their differences must be finite.
const LARGEST: f64 = 1e150;
/// Lines in one drawing; the style sheet has as many colours.
pub(crate) const MAX_LINES: usize = 8;
/// Up to so many points are also drawn as dots.
const DOTS: usize = 40;
const NAME: usize = 60;
/// The width of a digit, at most.
const DIGIT: f64 = 7.5;

/// A line of a chart.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChartLine<'a> {
    pub name: &'a str,
    /// Step and value, in ascending order of the steps.
    pub points: &'a [(f64, f64)],
}

/// What a chart looks like.
#[derive(Clone, Copy, Debug)]
pub(crate) struct ChartForm {
    /// Units of the drawing, which is scaled to its place.
    pub width: f64,
    pub height: f64,
    /// Points of a line at most.
    pub columns: usize,
    /// Places at most that show their values under the mouse.
    pub hover: usize,
    /// A logarithmic scale, if all values are above 0.
    pub log: bool,
    /// Values are bytes.
    pub bytes: bool,
}

impl ChartForm {
    fn number(&self, value: f64) -> String {
        if self.bytes && value >= 0.0 { bytes(value as u64) } else { significant(value) }
    }
}

/// A step as text.
fn step_text(step: f64) -> String {
    if step >= 0.0 && step.fract() == 0.0 && step < 1e15 { grouped(step as u64) } else { significant(step) }
}

/// 5.000e-4 as 5e-4.
fn short(number: &str) -> String {
    match number.split_once('e') {
        Some((digits, power)) if digits.contains('.') => format!("{}e{power}", digits.trim_end_matches('0').trim_end_matches('.')),
        _ => number.to_string(),
    }
}

/// One axis: its range, and where a value is between 0 and 1.
struct Axis {
    low: f64,
    high: f64,
    log: bool,
}

impl Axis {
    fn new(low: f64, high: f64, log: bool) -> Axis {
        let (low, high) = (low.clamp(-LARGEST, LARGEST), high.clamp(-LARGEST, LARGEST));
        if log {
            let (low, high) = (low.max(1e-150).log10(), high.max(1e-150).log10());
            let room = if high > low { (high - low) * 0.04 } else { 0.5 };
            return Axis { low: low - room, high: high + room, log };
        }
        Axis { low, high, log }
    }

    /// An axis on which small changes look small: it spans a tenth of the values at least.
    fn of_values(low: f64, high: f64, log: bool) -> Axis {
        let missing = 0.1 * low.abs().max(high.abs()).min(LARGEST) - (high - low);
        if log || missing <= 0.0 { Axis::new(low, high, log) } else { Axis::new(low - missing / 2.0, high + missing / 2.0, log) }
    }

    fn place(&self, value: f64) -> f64 {
        let value = value.clamp(-LARGEST, LARGEST);
        let value = if self.log { value.max(1e-150).log10() } else { value };
        if self.high > self.low { ((value - self.low) / (self.high - self.low)).clamp(0.0, 1.0) } else { 0.5 }
    }

    /// Round values within the range, about `count`.
    fn ticks(&self, count: f64) -> Vec<f64> {
        if self.log && self.high - self.low > 1.0 {
            let every = ((self.high - self.low) / count).ceil().max(1.0);
            let powers = (0..=(count as i32 * 2)).map(|i| (self.low / every).ceil().mul_add(every, f64::from(i) * every));
            return powers.filter(|power| *power <= self.high).map(|power| 10_f64.powf(power)).collect();
        }
        if self.high <= self.low {
            return vec![if self.log { 10_f64.powf(self.low) } else { self.low }];
        }
        let (low, high) = if self.log { (10_f64.powf(self.low), 10_f64.powf(self.high)) } else { (self.low, self.high) };
        let rough = (high - low) / count;
        let power = 10_f64.powf(rough.log10().floor());
        let step = [1.0, 2.0, 5.0, 10.0].into_iter().map(|factor| factor * power).find(|step| *step >= rough).unwrap_or(rough);
        let first = (low / step).ceil();
        let all = (0..=(count as i32 * 2)).map(|i| (first + f64::from(i)) * step);
        // 0.30000000000000004 is 0.3.
        all.filter(|value| *value <= high + step * 1e-9).map(|value| (value / step).round() * step).collect()
    }
}

/// Draws the lines, of which at least one must have a point. `title` names the chart for those who cannot see it; `marks` are steps with a
/// vertical line.
pub(crate) fn chart(title: &str, lines: &[ChartLine], marks: &[f64], form: ChartForm) -> String {
    let lines = &lines[..lines.len().min(MAX_LINES)];
    let values = || lines.iter().flat_map(|line| line.points).map(|(_, value)| *value);
    let steps = || lines.iter().flat_map(|line| [line.points.first(), line.points.last()]).flatten().map(|(step, _)| *step);
    let range = |all: &mut dyn Iterator<Item = f64>| {
        all.fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), value| (low.min(value), high.max(value)))
    };
    let ((first, last), (low, high)) = (range(&mut steps()), range(&mut values()));
    if !(first.is_finite() && low.is_finite()) {
        return String::new();
    }
    let (horizontal, vertical) = (Axis::new(first, last, false), Axis::of_values(low, high, form.log && low > 0.0));
    let (left, top, right, bottom) = (62.0, 12.0, form.width - 12.0, form.height - 24.0);
    let x = |step: f64| left + horizontal.place(step) * (right - left);
    let y = |value: f64| bottom - vertical.place(value) * (bottom - top);

    let mut svg = format!(
        "<svg class=\"chart\" role=\"img\" viewBox=\"0 0 {} {}\" aria-label=\"{}\">",
        form.width,
        form.height,
        escape(&described(title, lines, form))
    );
    for tick in vertical.ticks(5.0) {
        let at = y(tick);
        svg.push_str(&format!("<path class=\"grid\" d=\"M{left} {at:.1}H{right}\"/>"));
        svg.push_str(&format!(
            "<text class=\"y\" x=\"{}\" y=\"{:.1}\">{}</text>",
            left - 6.0,
            at + 4.0,
            escape(&short(&form.number(tick)))
        ));
    }
    for tick in horizontal.ticks(4.0) {
        let text = step_text(tick);
        // At the right edge a number has no room for its other half.
        let at = x(tick).min(form.width - DIGIT / 2.0 * text.len() as f64);
        svg.push_str(&format!("<text class=\"x\" x=\"{at:.1}\" y=\"{:.1}\">{}</text>", bottom + 18.0, escape(&text)));
    }
    svg.push_str(&format!(
        "<text x=\"0\" y=\"{:.1}\">step</text><path class=\"axis\" d=\"M{left} {top}V{bottom}H{right}\"/>",
        bottom + 18.0
    ));
    for mark in marks.iter().take(20).filter(|mark| (first..=last).contains(mark)) {
        let at = x(*mark);
        svg.push_str(&format!(
            "<path class=\"mark\" d=\"M{at:.1} {top}V{bottom}\"><title>resumed at step {}</title></path>",
            step_text(*mark)
        ));
    }
    for (number, line) in lines.iter().enumerate() {
        let made = buckets(line.points, form.columns);
        draw_line(&mut svg, number, &made, &x, &y);
    }
    hover(&mut svg, lines, form, &x, (top, bottom, left, right));
    svg.push_str("</svg>");
    svg
}

fn draw_line(svg: &mut String, number: usize, made: &[Bucket], x: &dyn Fn(f64) -> f64, y: &dyn Fn(f64) -> f64) {
    if made.iter().any(|one| one.high > one.low) {
        let there = made.iter().map(|one| (x(one.step), y(one.high)));
        let back = made.iter().rev().map(|one| (x(one.step), y(one.low)));
        svg.push_str(&format!("<path class=\"band s{number}\" d=\"{}Z\"/>", path(there.chain(back))));
    }
    svg.push_str(&format!("<path class=\"line s{number}\" d=\"{}\"/>", path(made.iter().map(|one| (x(one.step), y(one.mean))))));
    if made.len() <= DOTS {
        for one in made {
            svg.push_str(&format!("<circle class=\"dot s{number}\" cx=\"{:.1}\" cy=\"{:.1}\" r=\"2.5\"/>", x(one.step), y(one.mean)));
        }
    }
}

fn path(points: impl Iterator<Item = (f64, f64)>) -> String {
    let mut text = String::new();
    for (i, (x, y)) in points.enumerate() {
        text.push_str(&format!("{}{x:.1} {y:.1}", if i == 0 { 'M' } else { 'L' }));
    }
    text
}

/// Areas without colour, which show the values at their step.
fn hover(svg: &mut String, lines: &[ChartLine], form: ChartForm, x: &dyn Fn(f64) -> f64, (top, bottom, left, right): (f64, f64, f64, f64)) {
    let Some(longest) = lines.iter().max_by_key(|line| line.points.len()).filter(|_| form.hover > 0) else { return };
    let steps: Vec<f64> = buckets(longest.points, form.hover).iter().map(|one| one.step).collect();
    for (i, step) in steps.iter().enumerate() {
        let before = i.checked_sub(1).map_or(left, |before| f64::midpoint(x(steps[before]), x(*step)));
        let after = steps.get(i + 1).map_or(right, |after| f64::midpoint(x(*step), x(*after)));
        let values: Vec<String> = lines
            .iter()
            .filter_map(|line| {
                let place = line.points.partition_point(|(at, _)| at <= step).checked_sub(1)?;
                Some(format!("{} {}", cut(line.name, NAME), form.number(line.points[place].1)))
            })
            .collect();
        svg.push_str(&format!(
            "<rect class=\"h\" x=\"{before:.1}\" y=\"{top}\" width=\"{:.1}\" height=\"{}\"><title>step {}: {}</title></rect>",
            (after - before).max(0.1),
            bottom - top,
            step_text(*step),
            escape(&values.join(", "))
        ));
    }
}

/// The numbers of a chart for the page's script, as an attribute's text: `{curves: [{name, steps, tokens, mean, low, high}], isBytes}`, each of at
/// most `columns` points. `tokens`: of a step, if known; `low` and `high` are there if they differ from `mean`.
pub(crate) fn chart_data(lines: &[ChartLine], columns: usize, is_bytes: bool, tokens: &dyn Fn(f64) -> Option<f64>) -> String {
    let curves = lines.iter().take(MAX_LINES).map(|line| {
        let made = buckets(line.points, columns);
        let each = |of: &dyn Fn(&Bucket) -> f64| Value::from(made.iter().map(|one| rounded(of(one))).collect::<Vec<_>>());
        let counts: Option<Vec<f64>> = made.iter().map(|one| tokens(one.step).map(f64::round)).collect();
        let mut curve = json!({"name": cut(line.name, NAME), "steps": each(&|one| one.step), "mean": each(&|one| one.mean)});
        if let Some(counts) = counts {
            curve["tokens"] = counts.into();
        }
        if made.iter().any(|one| one.high > one.low) {
            curve["low"] = each(&|one| one.low);
            curve["high"] = each(&|one| one.high);
        }
        curve
    });
    escape(&json!({"curves": curves.collect::<Vec<_>>(), "isBytes": is_bytes}).to_string())
}

/// With six digits, which a drawing does not show to the full.
fn rounded(value: f64) -> f64 {
    if value.fract() == 0.0 { value } else { format!("{value:.5e}").parse().unwrap_or(value) }
}

/// The chart in words.
fn described(title: &str, lines: &[ChartLine], form: ChartForm) -> String {
    let each = lines.iter().filter_map(|line| {
        let ((first, from), (last, to)) = (line.points.first()?, line.points.last()?);
        let lowest = line.points.iter().min_by(|a, b| a.1.total_cmp(&b.1))?;
        let name = cut(line.name, NAME);
        Some(if line.points.len() == 1 {
            format!("{name} {} at step {}", form.number(*from), step_text(*first))
        } else {
            let (from, to, low) = (form.number(*from), form.number(*to), form.number(lowest.1));
            let [first, last, at] = [*first, *last, lowest.0].map(step_text);
            format!("{name} from {from} at step {first} to {to} at step {last}, lowest {low} at step {at}")
        })
    });
    format!("{}: {}", cut(title, NAME), each.collect::<Vec<_>>().join("; "))
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::*;

    const FORM: ChartForm = ChartForm { width: 640.0, height: 240.0, columns: 50, hover: 10, log: false, bytes: false };

    #[test]
    fn ticks_are_round_and_within_the_range() {
        assert_eq!(Axis::new(0.0, 1.0, false).ticks(4.0), [0.0, 0.5, 1.0]);
        assert_eq!(Axis::new(10.0, 320.0, false).ticks(4.0), [100.0, 200.0, 300.0]);
        let log: Vec<String> = Axis::new(0.02, 7.0, true).ticks(4.0).into_iter().map(significant).collect();
        assert_eq!(log, ["0.1", "1"]);
    }

    #[test]
    fn a_spike_stays_visible_and_the_words_name_the_lowest() {
        let mut points: Vec<(f64, f64)> = (0..100_000).map(|step| (f64::from(step), 1.0)).collect();
        points[50_000].1 = 9.0;
        points[70_000].1 = 0.5;
        let svg = chart("Loss", &[ChartLine { name: "loss", points: &points }], &[], FORM);
        assert!(svg.contains("lowest 0.5 at step 70,000"), "{svg}");
        // The top of the drawing is the spike's.
        assert!(svg.contains(" 12.0L") && svg.len() < 10_000, "{} bytes", svg.len());
    }

    proptest! {
        #[test]
        fn every_coordinate_is_finite_and_no_name_is_markup(
            points in prop::collection::vec((any::<u32>(), any::<f64>()), 1..40), name in any::<String>(), log in any::<bool>(),
        ) {
            let mut points: Vec<(f64, f64)> = points.into_iter().filter(|(_, y)| y.is_finite()).map(|(x, y)| (f64::from(x), y)).collect();
            points.sort_by(|a, b| a.0.total_cmp(&b.0));
            let svg = chart("<b>", &[ChartLine { name: &name, points: &points }], &[1.0], ChartForm { log, ..FORM });
            prop_assert!(!svg.contains("NaN") && !svg.contains("inf") || name.contains("inf") || name.contains("NaN"), "{}", svg);
            let tags = ["<svg", "<path", "<text", "<circle", "<rect", "<title", "</", "/>"];
            let marks = svg.match_indices('<').all(|(at, _)| tags.iter().any(|tag| svg[at..].starts_with(tag)));
            prop_assert!(marks, "{}", svg);
        }
    }
}
