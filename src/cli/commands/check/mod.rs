//! Prints the report of `check` as text.

mod page;
mod preview;

use crate::cli::commands::check::page::ReportPage;
use crate::cli::text::{Style, bytes, counted, duration, grouped, short, visible};
use crate::cli::{output, text};
use crate::data::Bin;
use crate::dataset::report::CheckReport;
use crate::estimate::{Estimate, FinetuneMethod};

/// Prints the report on stdout.
pub(crate) fn report(report: &CheckReport, verbose: bool) {
    let columns = output::stdout_width();
    let page = ReportPage {
        style: Style::of_stdout(),
        width: columns.unwrap_or(80).clamp(40, 160),
        line_width: columns.unwrap_or(usize::MAX),
        verbose,
    };
    output::line(&page.draw(report));
}

impl ReportPage {
    fn draw(self, report: &CheckReport) -> String {
        if !report.ok {
            return self.draw_faulty(report);
        }
        let mut parts = vec![self.statistics(report)];
        if report.counts.rows > 0 || report.too_long.count > 0 {
            parts.extend((!report.turns.is_empty()).then(|| self.turns(report)));
            parts.push(self.lengths(report));
        }
        parts.extend(report.previews.iter().map(|one| self.preview(one)));
        parts.push(self.estimate(&report.estimate, report));
        parts.push(self.verdict(report));
        parts.join("\n\n")
    }

    /// Wrong data: what is wrong comes first, and there is no estimate. A long report ends with a reminder.
    fn draw_faulty(self, report: &CheckReport) -> String {
        let mut parts = vec![self.verdict(report)];
        if report.counts.rows > 0 || report.too_long.count > 0 {
            parts.push(self.statistics(report));
            parts.extend((!report.turns.is_empty()).then(|| self.turns(report)));
            parts.push(self.lengths(report));
            parts.extend(report.previews.iter().map(|one| self.preview(one)));
            let count = report.problem_count + report.errors.len() as u64;
            parts.push(self.style.error(&format!("not ready: {}, listed first", counted(count, "error"))));
        }
        parts.join("\n\n")
    }

    fn heading(self, text: &str) -> String {
        self.style.bold(text)
    }

    fn statistics(self, report: &CheckReport) -> String {
        let counts = &report.counts;
        let files: Vec<String> = report.files.iter().take(3).map(|file| visible(&file.display().to_string())).collect();
        let more = if report.files.len() > 3 { format!(" and {} more", report.files.len() - 3) } else { String::new() };
        let mut lines = vec![self.heading(&format!("{}{more}", files.join(", ")))];
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<14}{text}"));
        line("model", visible(&report.model.display().to_string()));
        line("conversations", format!("{}, giving {}", grouped(counts.conversations), counted(counts.rows, "row")));
        let share = 100.0 * counts.target_tokens as f64 / counts.tokens.max(1) as f64;
        line("tokens", format!("{}, of which {} ({share:.0} %) are trained on", grouped(counts.tokens), grouped(counts.target_tokens)));
        let roles = report.roles.iter().filter(|(_, count)| count.as_u64() != Some(0));
        let roles: Vec<String> = roles.map(|(role, count)| format!("{role} {}", grouped(count.as_u64().unwrap_or(0)))).collect();
        line("messages", roles.join(", "));
        if let Some(evaluation) = &report.evaluation {
            let files: Vec<String> = evaluation.files.iter().take(3).map(|file| visible(&file.display().to_string())).collect();
            let leaked = if evaluation.leaked > 0 { format!(", {} also trained on", grouped(evaluation.leaked)) } else { String::new() };
            let rows = counted(evaluation.counts.rows, "row");
            line("evaluation", format!("{}: {rows}{leaked}", files.join(", ")));
        }
        for (name, count, unit, what) in [
            ("held out", report.eval_rows, "row", " for evaluation"),
            ("truncated", counts.truncated, "sample", " cut to max_length"),
            ("dropped", counts.dropped, "sample", ": too long, or no turn to train on"),
            ("lost", counts.lost_tokens, "token", " by truncating and dropping"),
            ("split", counts.split_conversations, "conversation", " into one row per turn, because the template rewrites earlier turns"),
            (
                "retokenized",
                counts.separately_tokenized_turns,
                "answer",
                " beginning with whitespace, tokenized separately from the prompt",
            ),
            ("duplicates", counts.duplicates, "conversation", " identical to an earlier one"),
            ("literals", counts.literal_special_tokens, "conversation", " with the text of a special token"),
        ] {
            if count > 0 {
                line(name, format!("{}{what}", counted(count, unit)));
            }
        }
        lines.join("\n")
    }

    /// What each kind of turn contributes.
    fn turns(self, report: &CheckReport) -> String {
        let mut lines = vec![self.heading(&format!("  {:<10}{:>14}{:>9}{:>14}{:>9}", "turn", "tokens", "share", "trained", "share"))];
        let share = |part: u64, whole: u64| format!("{:.1} %", 100.0 * part as f64 / whole.max(1) as f64);
        let (tokens, trained) = (report.turns.iter().map(|one| one.tokens).sum(), report.turns.iter().map(|one| one.target_tokens).sum());
        for one in &report.turns {
            let shares = [share(one.tokens, tokens), share(one.target_tokens, trained)];
            let counts = [grouped(one.tokens), grouped(one.target_tokens)];
            lines.push(format!("  {:<10}{:>14}{:>9}{:>14}{:>9}", one.kind.as_str(), counts[0], shares[0], counts[1], shares[1]));
        }
        lines.join("\n")
    }

    fn lengths(self, report: &CheckReport) -> String {
        let lengths = &report.lengths;
        let quantiles = format!(
            "median {}, 90 % up to {}, 99 % up to {}, longest {}",
            grouped(u64::from(lengths.median)),
            grouped(u64::from(lengths.p90)),
            grouped(u64::from(lengths.p99)),
            grouped(u64::from(lengths.max))
        );
        let mut lines = vec![format!("{}  {quantiles}", self.heading("tokens of a row"))];
        let label = |bin: &Bin| match (u64::from(bin.from), u64::from(bin.to)) {
            (from, to) if from == to => grouped(from),
            (from, to) => format!("{} – {}", grouped(from), grouped(to)),
        };
        let labels: Vec<String> = lengths.histogram.iter().map(label).collect();
        let label_width = labels.iter().map(|label| label.chars().count()).max().unwrap_or(0);
        let most = lengths.histogram.iter().map(|bin| bin.rows).max().unwrap_or(0);
        let room = self.width.saturating_sub(label_width + grouped(most).len() + 6).clamp(8, 60);
        for (bin, label) in lengths.histogram.iter().zip(&labels) {
            let drawn = if bin.rows == 0 { String::new() } else { self.style.bar(&text::bar(bin.rows, most, room)) + " " };
            lines.push(format!("  {label:>label_width$}  {drawn}{}", grouped(bin.rows)));
        }
        if report.too_long.count > 0 {
            let (samples, longest) = (counted(report.too_long.count, "sample"), grouped(report.counts.longest));
            let words = format!("longer than max_length: {samples}; the longest has {longest} tokens");
            lines.push(format!("  {}", self.style.warning(&words)));
        }
        lines.join("\n")
    }

    fn estimate(self, estimate: &Estimate, report: &CheckReport) -> String {
        let task = if estimate.task == FinetuneMethod::FinetuneFull { "finetune_full" } else { "finetune_lora" };
        let mut lines = vec![format!("{}  {task} on {} in {}", self.heading("estimate"), estimate.device, estimate.dtype)];
        let mut line = |name: &str, text: String| lines.push(format!("  {name:<14}{text}"));
        let rows = report.counts.rows - report.eval_rows;
        line("steps", format!("{}, {} per epoch of {}", grouped(estimate.steps), grouped(estimate.steps_per_epoch), counted(rows, "row")));
        if let Some(trained) = estimate.trainable_parameters {
            let all = estimate.parameters.map(|all| format!(" of {}", short(all))).unwrap_or_default();
            line("trained", format!("{}{all} parameters", short(trained)));
        }
        if let Some(memory) = &estimate.memory {
            line("memory", self.style.bold(&bytes(memory.total)));
            for (name, part) in [
                ("weights", memory.weights),
                ("gradients", memory.gradients),
                ("optimizer", memory.optimizer),
                ("activations", memory.activations),
                ("logits", memory.logits),
            ] {
                let drawn = self.style.bar(&text::bar(part, memory.total, 20));
                line("", format!("{name:<12} {:>9}  {drawn}", bytes(part)).trim_end().to_string());
            }
        }
        if let Some(disk) = &estimate.disk {
            let checkpoints = if disk.checkpoints == 0 {
                String::new()
            } else {
                format!(", and {} of {}", counted(disk.checkpoints, "checkpoint"), bytes(disk.checkpoint))
            };
            let output = if estimate.task == FinetuneMethod::FinetuneFull { "the model" } else { "the adapter" };
            line("disk", format!("{}: {output} {}{checkpoints}", self.style.bold(&bytes(disk.total)), bytes(disk.output)));
        }
        if let Some(time) = &estimate.time {
            line(
                "time",
                format!(
                    "roughly {}, {} tokens per second",
                    self.style.bold(&duration(time.seconds)),
                    grouped(time.tokens_per_second as u64)
                ),
            );
            line("", format!("(extrapolated from two layers and a row of {} tokens)", grouped(time.row_tokens)));
        }
        for missing in &estimate.missing {
            line("missing", visible(missing));
        }
        lines.join("\n")
    }

    /// Problems and errors, then warnings. Of good data it comes last, where it stays visible on the screen.
    fn verdict(self, report: &CheckReport) -> String {
        let mut lines = Vec::new();
        if report.problem_count > 0 {
            let one = report.files.len() == 1;
            lines.push(format!("{}: {} in the data", self.style.error("error"), counted(report.problem_count, "problem")));
            for problem in &report.problems {
                let file = match (one, problem.line) {
                    (_, 0) => format!("{} ", problem.file.display()),
                    (true, _) => String::new(),
                    (false, _) => format!("{}: ", problem.file.display()),
                };
                let path = if problem.path.is_empty() { String::new() } else { format!(", {}", problem.path) };
                let column = if problem.column == 0 { String::new() } else { format!(", column {}", problem.column) };
                let place = if problem.line == 0 { String::new() } else { format!("line {}{column}{path}: ", problem.line) };
                lines.push(visible(&format!("  {file}{place}{}", problem.text)));
            }
            let more = report.problem_count - report.problems.len() as u64;
            if more > 0 {
                lines.push(format!("  … and {more} more"));
            }
        }
        lines.extend(report.errors.iter().map(|error| format!("{}: {}", self.style.error("error"), visible(error))));
        lines.extend(report.notes.iter().map(|note| format!("{}: {}", self.style.dim("note"), visible(note))));
        lines.extend(report.warnings.iter().map(|warning| format!("{}: {}", self.style.warning("warning"), visible(warning))));
        if report.ok {
            lines.push(self.style.good("ready: training accepts this data"));
        }
        lines.join("\n")
    }
}
