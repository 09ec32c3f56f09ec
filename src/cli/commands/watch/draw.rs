//! Draws the session that is watched, for any size of the terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, LineGauge, Paragraph, Sparkline};

use crate::base::numbers::{bytes, counted, duration, grouped, significant};
use crate::cli::commands::watch::watched::Watched;
use crate::cli::text::visible;
use crate::cli::wrap::{cut, wrapped_below};
use crate::report::{Curves, buckets};

/// Steps of the session that are listed.
const STEPS: usize = 6;
/// Lines of a step's error, and where those after the first begin.
const ERROR_LINES: usize = 4;
const INDENT: usize = 6;
/// Heights of a sparkline are multiples of this part of its range.
const PARTS: f64 = 1000.0;
/// Lines below which there are no sparklines, so that the log has some.
const LOW: u16 = 16;

pub(super) fn draw(frame: &mut Frame, watched: &Watched) {
    let steps = step_lines(watched, frame.area());
    let has_curves = watched.training.as_ref().is_some_and(|(_, curves)| curves.named("loss").is_some()) && frame.area().height >= LOW;
    let (loss, rate) = if has_curves { (6, 4) } else { (0, 0) };
    let progress = u16::from(watched.progress.is_some());
    let areas: [Rect; 7] = Layout::vertical([
        Constraint::Length(1),
        Constraint::Length(steps.len() as u16),
        Constraint::Length(progress),
        Constraint::Length(loss),
        Constraint::Length(rate),
        Constraint::Min(2),
        Constraint::Length(1),
    ])
    .areas(frame.area());
    frame.render_widget(Paragraph::new(title(watched)), areas[0]);
    frame.render_widget(Paragraph::new(steps), areas[1]);
    draw_progress(frame, watched, areas[2]);
    if let Some((step, curves)) = watched.training.as_ref().filter(|_| has_curves) {
        draw_curve(frame, (step, curves), "loss", Color::Cyan, areas[3]);
        draw_curve(frame, (step, curves), "tokens_per_second", Color::Green, areas[4]);
    }
    draw_log(frame, watched, areas[5]);
    let keys = Line::from("q leaves, l changes the level of the log").style(Style::new().add_modifier(Modifier::DIM));
    frame.render_widget(Paragraph::new(keys), areas[6]);
}

fn title(watched: &Watched) -> Line<'static> {
    let state = &watched.state;
    Line::from(vec![
        Span::styled(visible(&state.session), Style::new().add_modifier(Modifier::BOLD)),
        Span::raw("  "),
        word(&state.state),
        Span::raw(format!("  {}, {}", counted(state.steps.len() as u64, "step"), bytes(state.size_bytes))),
    ])
}

fn word(state: &str) -> Span<'static> {
    let color = match state {
        "success" => Color::Green,
        "failure" => Color::Red,
        "running" => Color::Cyan,
        _ => Color::Yellow,
    };
    Span::styled(visible(state), Style::new().fg(color))
}

/// A line for each of the last steps; an error that is longer goes on below it.
fn step_lines(watched: &Watched, area: Rect) -> Vec<Line<'static>> {
    let width = usize::from(area.width);
    // On a low terminal the log, which has the error too, needs the room.
    let most = if area.height >= LOW { ERROR_LINES } else { 1 };
    let steps = &watched.state.steps;
    let before = steps.len().saturating_sub(STEPS);
    let omitted = (before > 0).then(|| Line::from(format!("  … {}", counted(before as u64, "earlier step"))));
    let lines = steps[before..].iter().flat_map(|step| {
        let mut spans = vec![Span::raw(format!("  {}  ", visible(&step.step))), word(&step.state)];
        spans.extend(step.duration_s.map(|time| Span::raw(format!("  {}", duration(time)))));
        spans.extend(step.loss.map(|loss| Span::raw(format!("  loss {}", significant(loss)))));
        let taken: usize = spans.iter().map(Span::width).sum();
        let red = Style::new().fg(Color::Red);
        let mut error = step.error.as_ref().map(|error| error_lines(&visible(error), taken, width, most)).unwrap_or_default().into_iter();
        spans.extend(error.next().map(|first| Span::styled(format!("  {first}"), red)));
        std::iter::once(Line::from(spans))
            .chain(error.map(|more| Line::from(format!("{}{more}", " ".repeat(INDENT))).style(red)))
            .collect::<Vec<_>>()
    });
    omitted.into_iter().chain(lines).collect()
}

/// An error that begins in the column `taken` of a line of `width` columns, broken at spaces into at most `most` lines; an ellipsis ends a longer one.
fn error_lines(error: &str, taken: usize, width: usize, most: usize) -> Vec<String> {
    let error = error.replace(['\n', '\t'], " ");
    // Of the first line `taken` columns and the two spaces are gone: a word as wide stands for them.
    let gone = (taken + 2).saturating_sub(INDENT).min(width.saturating_sub(INDENT));
    let whole =
        wrapped_below(&format!("{} {error}", "x".repeat(gone.saturating_sub(1).max(1))), width.saturating_sub(INDENT).max(1), |_| 0);
    let mut lines: Vec<String> = whole.lines().map(ToString::to_string).collect();
    if let Some(first) = lines.first_mut() {
        *first = first.get(gone.max(2)..).unwrap_or_default().to_string();
    }
    if lines.len() > most {
        let rest = lines.drain(most.max(1) - 1..).collect::<Vec<_>>().join(" ");
        let room = if most <= 1 { width.saturating_sub(taken + 2) } else { width.saturating_sub(INDENT) };
        lines.push(cut(&rest, room));
    }
    lines
}

fn draw_progress(frame: &mut Frame, watched: &Watched, area: Rect) {
    let Some(progress) = &watched.progress else { return };
    let steps = progress.steps.map_or_else(String::new, |steps| format!(" of {}", grouped(steps)));
    let mut words = vec![format!("step {}{steps}", grouped(progress.step))];
    words.extend(progress.eta_seconds.map(|eta| format!("{} left", duration(eta))));
    words.extend(progress.tokens_per_second.map(|rate| format!("{} tokens/s", significant(rate))));
    match progress.fraction {
        Some(fraction) => {
            let label = format!("{:.0} %  {}", (fraction * 100.0).floor(), words.join(", "));
            frame.render_widget(LineGauge::default().ratio(fraction).label(label).filled_style(Style::new().fg(Color::Cyan)), area);
        }
        None => frame.render_widget(Paragraph::new(words.join(", ")), area),
    }
}

/// A step's curve with its first, last and lowest value in words.
fn draw_curve(frame: &mut Frame, (step_name, curves): (&str, &Curves), name: &str, color: Color, area: Rect) {
    let Some(curve) = curves.named(name) else { return };
    let (Some((_, first)), Some((step, last))) = (curve.points.first(), curve.points.last()) else { return };
    let lowest = curve.points.iter().map(|(_, value)| *value).fold(f64::INFINITY, f64::min);
    let words = match name {
        "loss" => format!(
            "loss {} → {} at step {}, lowest {}",
            significant(*first),
            significant(*last),
            grouped(*step as u64),
            significant(lowest)
        ),
        _ => format!("tokens per second {}", significant(*last)),
    };
    let made = buckets(&curve.points, usize::from(area.width.max(1)));
    let (low, high) = made.iter().fold((f64::INFINITY, f64::NEG_INFINITY), |(low, high), one| (low.min(one.mean), high.max(one.mean)));
    // A value that does not change is a line in the middle.
    let height = |value: f64| if high > low { 1.0 + (PARTS - 1.0) * (value - low) / (high - low) } else { PARTS / 2.0 };
    let heights: Vec<u64> = made.iter().map(|one| height(one.mean) as u64).collect();
    let block = Block::new().borders(Borders::TOP).title(format!("{}: {words}", visible(step_name)));
    frame.render_widget(Sparkline::default().block(block).data(heights).max(PARTS as u64).style(Style::new().fg(color)), area);
}

/// The last lines that fit.
fn draw_log(frame: &mut Frame, watched: &Watched, area: Rect) {
    let room = usize::from(area.height.saturating_sub(1));
    let width = usize::from(area.width).max(1);
    let records = watched.log[watched.log.len().saturating_sub(room)..].iter().flat_map(|line| {
        let style = match line.split_once(" [").and_then(|(_, rest)| rest.get(..5)) {
            Some("ERROR") => Style::new().fg(Color::Red),
            Some("WARN ") => Style::new().fg(Color::Yellow),
            Some("DEBUG") => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        let text = visible(&shortened(line).unwrap_or_else(|| line.clone())).replace('\t', "    ");
        let text = wrapped_below(&cut(&text, width * room.max(1)), width, |line| line.len() - line.trim_start_matches(' ').len() + 2);
        text.lines().map(|line| Line::from(line.to_string()).style(style)).collect::<Vec<_>>()
    });
    let records: Vec<Line> = records.collect();
    let lines = records[records.len().saturating_sub(room)..].to_vec();
    let title = format!("log, {} and above", watched.level.as_str().to_lowercase());
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines).block(block), area);
}

/// A record without its date and origin, and without its level if that is INFO. `None` for the further lines of a record.
fn shortened(line: &str) -> Option<String> {
    let (stamp, rest) = line.split_once(" [")?;
    let time = stamp.get(11..19).filter(|_| stamp.len() > 19 && !stamp.contains(' '))?;
    let (level, rest) = rest.split_once("] ")?;
    let (_, text) = rest.split_once(": ")?;
    let level = if level == "INFO " { String::new() } else { format!("[{level}] ") };
    Some(format!("{time} {level}{text}"))
}

#[cfg(test)]
mod tests {
    use ratatui::Terminal;
    use ratatui::backend::TestBackend;

    use super::*;

    #[test]
    fn a_session_is_drawn_at_any_size() {
        let runs = tempfile::tempdir().unwrap();
        let step = runs.path().join("s1/tune");
        std::fs::create_dir_all(&step).unwrap();
        let record = r#"{"created": "2026-01-01T00:00:00.000Z", "invocations": [{"task": "finetune_lora", "step": "tune", "status": "Success", "started_at": "2026-01-01T00:00:00.000Z", "finished_at": "2026-01-01T00:00:00.000Z"}]}"#;
        std::fs::write(runs.path().join("s1/session.json"), record).unwrap();
        std::fs::write(runs.path().join("s1/pipeline.log"), "2026-01-01T00:00:00.000Z [WARN ] a: \u{1b}[31mred\n").unwrap();
        let lines: String =
            (1..=500).map(|i| format!("{{\"step\": {i}, \"loss\": {}, \"tokens_per_second\": 7}}\n", 5.0 / f64::from(i))).collect();
        std::fs::write(step.join("metrics.jsonl"), lines).unwrap();
        let mut watched = Watched::open(runs.path(), "s1", false).unwrap();
        watched.refresh().unwrap();
        for (width, height) in [(1, 1), (10, 5), (80, 24), (200, 60)] {
            let mut terminal = Terminal::new(TestBackend::new(width, height)).unwrap();
            terminal.draw(|frame| draw(frame, &watched)).unwrap();
            let text = terminal.backend().to_string();
            assert!(!text.contains('\u{1b}'), "{text}");
            if width >= 80 {
                for words in [
                    "s1  success  1 step",
                    "tune: loss 5 → 0.01 at step 500, lowest 0.01",
                    "tune: tokens per second 7",
                    "00:00:00 [WARN ] ",
                    "[31mred",
                    "q leaves",
                ] {
                    assert!(text.contains(words), "{words} at {width}: {text}");
                }
            }
        }
    }

    #[test]
    fn a_long_error_goes_on_below_its_step_and_in_the_log() {
        let words: Vec<String> = (1..=60).map(|i| format!("word{i}")).collect();
        let error = words.join(" ");
        assert_eq!(error_lines("short", 30, 80, 4), ["short"]);
        for (taken, width) in [(30, 140), (30, 80), (79, 80), (120, 80)] {
            let lines = error_lines(&error, taken, width, 20);
            assert_eq!(lines.join(" ").split_whitespace().collect::<Vec<_>>(), words, "{taken} of {width}");
            assert!(lines[0].len() + taken + 2 <= width || lines[0].is_empty(), "{taken} of {width}: {lines:?}");
            assert!(lines[1..].iter().all(|line| line.len() + INDENT <= width), "{lines:?}");
        }
        let few = error_lines(&error, 30, 80, 3);
        assert!(few.len() == 3 && few[2].ends_with('…') && few[2].chars().count() + INDENT <= 80, "{few:?}");
        assert!(error_lines(&error, 30, 80, 1)[0].ends_with('…'));
        assert_eq!(error_lines("", 0, 1, 1).len(), 1);
    }

    #[test]
    fn of_many_steps_the_last_are_listed_and_the_others_counted() {
        let runs = tempfile::tempdir().unwrap();
        let attempt = |i: usize| {
            let moment = "2026-01-01T00:00:00.000Z";
            format!(r#"{{"task": "merge", "step": "s{i}", "status": "Success", "started_at": "{moment}", "finished_at": "{moment}"}}"#)
        };
        std::fs::create_dir(runs.path().join("s")).unwrap();
        let attempts: Vec<String> = (1..=STEPS + 2).map(attempt).collect();
        let record = format!(r#"{{"created": "2026-01-01T00:00:00.000Z", "invocations": [{}]}}"#, attempts.join(", "));
        std::fs::write(runs.path().join("s/session.json"), record).unwrap();
        let watched = Watched::open(runs.path(), "s", false).unwrap();
        let mut terminal = Terminal::new(TestBackend::new(80, 24)).unwrap();
        terminal.draw(|frame| draw(frame, &watched)).unwrap();
        let text = terminal.backend().to_string();
        assert!(text.contains("… 2 earlier steps") && text.contains("s3") && text.contains("s8") && !text.contains("s2 "), "{text}");
    }
}
