//! Draws the session that is watched, for any size of the terminal.

use ratatui::Frame;
use ratatui::layout::{Constraint, Layout, Rect};
use ratatui::style::{Color, Modifier, Style};
use ratatui::text::{Line, Span};
use ratatui::widgets::{Block, Borders, LineGauge, Paragraph, Sparkline};

use crate::base::numbers::{bytes, counted, duration, grouped, significant};
use crate::cli::commands::watch::watched::Watched;
use crate::cli::text::visible;
use crate::report::{Curves, buckets};

/// Steps of the session that are listed.
const STEPS: usize = 6;
/// Heights of a sparkline are multiples of this part of its range.
const PARTS: f64 = 1000.0;
/// Lines below which there are no sparklines, so that the log has some.
const LOW: u16 = 16;

pub(super) fn draw(frame: &mut Frame, watched: &Watched) {
    let steps = step_lines(watched);
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

fn step_lines(watched: &Watched) -> Vec<Line<'static>> {
    let steps = &watched.state.steps;
    let before = steps.len().saturating_sub(STEPS);
    let omitted = (before > 0).then(|| Line::from(format!("  … {}", counted(before as u64, "earlier step"))));
    let lines = steps[before..].iter().map(|step| {
        let mut spans = vec![Span::raw(format!("  {}  ", visible(&step.step))), word(&step.state)];
        spans.extend(step.duration_s.map(|time| Span::raw(format!("  {}", duration(time)))));
        spans.extend(step.loss.map(|loss| Span::raw(format!("  loss {}", significant(loss)))));
        spans.extend(step.error.as_ref().map(|error| Span::styled(format!("  {}", visible(error)), Style::new().fg(Color::Red))));
        Line::from(spans)
    });
    omitted.into_iter().chain(lines).collect()
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
    let lines = watched.log[watched.log.len().saturating_sub(room)..].iter().map(|line| {
        let style = match line.split_once(" [").and_then(|(_, rest)| rest.get(..5)) {
            Some("ERROR") => Style::new().fg(Color::Red),
            Some("WARN ") => Style::new().fg(Color::Yellow),
            Some("DEBUG") => Style::new().add_modifier(Modifier::DIM),
            _ => Style::new(),
        };
        Line::from(visible(&shortened(line).unwrap_or_else(|| line.clone()))).style(style)
    });
    let title = format!("log, {} and above", watched.level.as_str().to_lowercase());
    let block = Block::new().borders(Borders::TOP).title(title);
    frame.render_widget(Paragraph::new(lines.collect::<Vec<_>>()).block(block), area);
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
