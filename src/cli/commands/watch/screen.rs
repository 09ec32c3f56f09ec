//! The terminal while it is drawn on: entered, and left as it was, however the program ends.

use std::io::{Stdout, stdout};
use std::panic;
use std::sync::atomic::{AtomicBool, Ordering};

use anyhow::{Context, Result};
use ratatui::backend::CrosstermBackend;
use ratatui::crossterm::cursor::Show;
use ratatui::crossterm::execute;
use ratatui::crossterm::terminal::{EnterAlternateScreen, LeaveAlternateScreen, disable_raw_mode, enable_raw_mode};
use ratatui::{Frame, Terminal};

/// Whether the terminal is ours to restore.
static IS_OPEN: AtomicBool = AtomicBool::new(false);

/// The terminal's other screen, without echo and line editing. What was on the terminal is there again on drop, and after a panic.
pub(super) struct Screen(Terminal<CrosstermBackend<Stdout>>);

impl Screen {
    pub(super) fn open() -> Result<Screen> {
        let before = panic::take_hook();
        panic::set_hook(Box::new(move |about| {
            // So that the message is on the screen that stays.
            restore();
            before(about);
        }));
        IS_OPEN.store(true, Ordering::SeqCst);
        enable_raw_mode().context("the terminal cannot be drawn on")?;
        let opened = execute!(stdout(), EnterAlternateScreen).and_then(|()| Terminal::new(CrosstermBackend::new(stdout())));
        opened.map(Screen).inspect_err(|_| restore()).context("the terminal cannot be drawn on")
    }

    pub(super) fn draw(&mut self, draw: impl FnOnce(&mut Frame)) -> Result<()> {
        self.0.draw(draw).context("the terminal cannot be drawn on")?;
        Ok(())
    }
}

impl Drop for Screen {
    fn drop(&mut self) {
        restore();
    }
}

fn restore() {
    if IS_OPEN.swap(false, Ordering::SeqCst) {
        drop(disable_raw_mode());
        drop(execute!(stdout(), LeaveAlternateScreen, Show));
    }
}
