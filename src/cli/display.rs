//! What a terminal shows during a step: a progress bar or a status below the log lines, and answers while they are generated.
//!
//! An answer has no bar beside it: text without a newline and a bar would share a line, and the next redraw would break it.

use std::io::{self, Write};
use std::sync::{Mutex, MutexGuard, OnceLock, PoisonError};

use console::Term;
use indicatif::{MultiProgress, ProgressBar, ProgressDrawTarget, ProgressStyle, TermLike};

use crate::base::progress::{Show, Update};
use crate::base::terminal::Terminal;
use crate::cli::bar::bar_line;
use crate::cli::text::{Style, columns, visible};
use crate::cli::word_wrap::{last_part, next_part};
use crate::cli::wrap::cut;

/// Columns behind the bar. Some terminals wrap when the last one is written, and all write `^C` there when it is typed: on a line of its
/// own, the bar above it would stay.
const FREE_COLUMNS: usize = 1 + 2 * "^C".len();

/// The terminal without those columns, which indicatif would fill with spaces.
#[derive(Debug)]
struct NarrowScreen(Term);

impl TermLike for NarrowScreen {
    fn width(&self) -> u16 {
        self.0.size().1.saturating_sub(FREE_COLUMNS as u16).max(1)
    }

    fn height(&self) -> u16 {
        self.0.size().0
    }

    fn move_cursor_up(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_up(lines)
    }

    fn move_cursor_down(&self, lines: usize) -> io::Result<()> {
        self.0.move_cursor_down(lines)
    }

    fn move_cursor_right(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_right(columns)
    }

    fn move_cursor_left(&self, columns: usize) -> io::Result<()> {
        self.0.move_cursor_left(columns)
    }

    fn write_line(&self, line: &str) -> io::Result<()> {
        self.0.write_line(line)
    }

    fn write_str(&self, text: &str) -> io::Result<()> {
        self.0.write_str(text)
    }

    fn clear_line(&self) -> io::Result<()> {
        self.0.clear_line()
    }

    fn flush(&self) -> io::Result<()> {
        self.0.flush()
    }
}

static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// Whether stdout is a terminal on which an answer stands without its newline.
static OPEN_LINE: Mutex<bool> = Mutex::new(false);

fn bars() -> &'static MultiProgress {
    BARS.get_or_init(|| {
        let screen = NarrowScreen(Term::read_write_pair(io::stdin(), Terminal::Stderr));
        MultiProgress::with_draw_target(ProgressDrawTarget::term_like_with_hz(Box::new(screen), 8))
    })
}

fn open_line() -> MutexGuard<'static, bool> {
    OPEN_LINE.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Writes lines to stderr above the bar. An unfinished answer is ended first.
pub(crate) fn print_above(write: impl FnOnce()) {
    let mut open = open_line();
    bars().suspend(|| {
        let rest = if *open { last_part() } else { String::new() };
        if std::mem::take(&mut *open) && Terminal::Stderr.is_terminal() {
            drop(Terminal::Stdout.write_all(format!("{rest}\n").as_bytes()));
        }
        write();
    });
}

/// Shows progress and answers on this process's stderr and stdout.
#[derive(Debug)]
pub(crate) struct Display {
    /// Draw a bar.
    bar: bool,
    /// Print answers while they are generated.
    stream: bool,
    style: Style,
    current: Mutex<Option<ProgressBar>>,
}

impl Display {
    pub(crate) fn new(bar: bool, stream: bool) -> Display {
        Display { bar, stream, style: Style::of_stderr(), current: Mutex::new(None) }
    }

    fn current(&self) -> MutexGuard<'_, Option<ProgressBar>> {
        self.current.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Draws a line of the given width as the bar.
    fn draw(&self, line: impl FnOnce(usize) -> String) {
        let width = columns(Terminal::Stderr).unwrap_or(80).saturating_sub(FREE_COLUMNS);
        if !self.bar || *open_line() {
            return;
        }
        let mut current = self.current();
        let bar = current.get_or_insert_with(|| {
            let bar = bars().add(ProgressBar::no_length());
            bar.set_style(ProgressStyle::with_template("{msg}").unwrap_or_else(|_| ProgressStyle::default_bar()));
            bar
        });
        bar.set_message(line(width));
    }

    fn remove(&self) {
        if let Some(bar) = self.current().take() {
            bar.finish_and_clear();
            bars().remove(&bar);
        }
    }
}

impl Show for Display {
    fn update(&self, title: &str, update: Update<'_>) {
        self.draw(|width| bar_line(title, update, width, self.style));
    }

    fn status(&self, text: &str) {
        if text.is_empty() {
            self.remove();
        } else {
            self.draw(|width| self.style.dim(&cut(&visible(text), width)));
        }
    }

    fn stream(&self, text: &str) {
        if !self.stream {
            return;
        }
        let on_terminal = Terminal::Stdout.is_terminal();
        if on_terminal {
            self.remove();
        }
        let mut open = open_line();
        let part = next_part(text);
        drop(Terminal::Stdout.write_all(part.as_bytes()));
        *open = on_terminal && !text.ends_with('\n');
    }

    fn clear(&self) {
        self.remove();
        // An interrupted answer has no newline yet.
        if *open_line() {
            print_above(|| ());
        }
    }
}
