//! `watch`: a session in the terminal while it runs: curves, progress, the end of its log.

mod draw;
mod screen;
mod watched;

use std::io::{IsTerminal, stdin, stdout};
use std::time::{Duration, Instant};

use anyhow::Result;
use clap::Args;
use ratatui::crossterm::event::{Event, KeyCode, KeyEventKind, KeyModifiers, poll, read};

use crate::base::signals::Handlers;
use crate::base::{error, signals};
use crate::cli::commands::watch::draw::draw;
use crate::cli::commands::watch::screen::Screen;
use crate::cli::commands::watch::watched::Watched;
use crate::cli::global::GlobalArgs;
use crate::cli::read_session::ReadSession;
use crate::session::runs_dir;

/// How often keys and signals are looked for.
const POLL: Duration = Duration::from_millis(100);
/// How often the session is read, at most; and the pause after reading it, as a multiple of the time that this took.
const PERIOD: Duration = Duration::from_secs(1);
const PAUSE: u32 = 50;

/// Show a session in the terminal while it runs: loss, rate, progress and log
#[derive(Args, Debug)]
pub(crate) struct WatchArgs {
    #[command(flatten)]
    session: ReadSession,
}

/// What a key asks for.
enum KeyAction {
    Leave,
    NextLevel,
}

impl WatchArgs {
    pub(crate) fn run(self, global: &GlobalArgs) -> Result<u8> {
        if global.json || !stdout().is_terminal() || !stdin().is_terminal() {
            return Err(error::usage("watch draws on a terminal, and this is none; `pyrust-nn status SESSION --follow` prints lines"));
        }
        let runs = runs_dir(global.runs_dir.as_deref());
        let session = self.session.name(&runs)?;
        let mut watched = Watched::open(&runs, &session, global.verbose)?;
        let _signals = Handlers::note_signals();
        let mut screen = Screen::open()?;
        loop {
            let started = Instant::now();
            watched.refresh()?;
            let next = Instant::now() + PERIOD.max(started.elapsed() * PAUSE);
            screen.draw(|frame| draw(frame, &watched))?;
            while Instant::now() < next {
                signals::check()?;
                match event()? {
                    Some(KeyAction::Leave) => return Ok(0),
                    Some(KeyAction::NextLevel) => {
                        watched.next_level();
                        break;
                    }
                    // A terminal of another size is drawn anew.
                    None => screen.draw(|frame| draw(frame, &watched))?,
                }
            }
        }
    }
}

/// What the next key asks for, if one comes within a moment. In this mode Ctrl-C is a key.
fn event() -> Result<Option<KeyAction>> {
    if !poll(POLL)? {
        return Ok(None);
    }
    let Event::Key(key) = read()? else { return Ok(None) };
    if key.kind != KeyEventKind::Press {
        return Ok(None);
    }
    let with_control = key.modifiers.contains(KeyModifiers::CONTROL);
    Ok(match key.code {
        KeyCode::Char('c' | 'd') if with_control => Some(KeyAction::Leave),
        KeyCode::Char('q') | KeyCode::Esc => Some(KeyAction::Leave),
        KeyCode::Char('l') => Some(KeyAction::NextLevel),
        _ => None,
    })
}
