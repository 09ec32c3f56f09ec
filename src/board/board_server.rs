//! A running board: its address, its threads, its end.

use std::io::Read;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use anyhow::{Context, Result};
use serde_json::{Map, Value};
use tokio::runtime::{Builder, Runtime};

use crate::base::error::{Error, Kind};
use crate::base::own_program::Program;
use crate::board::board_params::{BoardParams, NAME};
use crate::board::list_query::ListQuery;
use crate::board::live::{Live, View, keep_up_to_date};
use crate::board::routes::{BoardState, routes};
use crate::params::interface::Interface;
use crate::params::param::TaskParams;
use crate::params::validate::resolve;
use crate::serve::{listen, listen_address};
use crate::session::runs_dir;

/// Where it listens. Other machines reach it through a tunnel of ssh, which also says who may.
const HOST: &str = "127.0.0.1";
/// Bytes of the token.
const TOKEN: usize = 24;

/// A board that serves its pages until it is closed or dropped.
#[derive(Debug)]
pub struct Board {
    url: String,
    runtime: Option<Runtime>,
}

/// Shows all sessions in the browser until the board is closed. See `docs/report.md`.
///
/// ```no_run
/// let board = pyrust_nn::board(&pyrust_nn::BoardParams::default())?;
/// println!("{}", board.url());
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// Kind `usage` (a parameter, or the port is taken), `io`.
pub fn board(params: &BoardParams) -> Result<Board> {
    Board::start(params.given()?, Interface::Rust, None)
}

impl Board {
    /// Starts a board. `program`: how to call Pyrust-NN's command line, which resumes sessions; `None`: as this process was called.
    pub(crate) fn start(given: Map<String, Value>, interface: Interface, program: Option<Vec<String>>) -> Result<Board> {
        let params = resolve(NAME, BoardParams::params().iter(), given, interface)?;
        let runs = std::path::absolute(runs_dir(params["runs_dir"].as_str().map(Path::new)))?;
        let port = params["port"].as_u64().unwrap_or_default() as u16;
        let listener = listen(&listen_address(HOST, port, interface)?, interface)?;
        listener.set_nonblocking(true)?;
        let address = listener.local_addr()?;
        let token = token().context("the system gives no random bytes for the token")?;
        let runtime =
            Builder::new_multi_thread().worker_threads(1).max_blocking_threads(4).thread_name(NAME).enable_io().enable_time().build()?;
        let allow_control = params["allow_control"] == Value::Bool(true);
        let live = Arc::new(Live::new(runs, format!("/{token}"), allow_control));
        let state = Arc::new(BoardState::new(&token, Arc::clone(&live), Program::of(program)));
        {
            let _inside = runtime.enter();
            let listener = tokio::net::TcpListener::from_std(listener)?;
            runtime.spawn(async move { axum::serve(listener, routes(state)).await });
            // The first list reads what later ones know.
            let first = Arc::clone(&live);
            runtime.spawn_blocking(move || first.parts(&View::Sessions(ListQuery::of(""))));
            runtime.spawn(keep_up_to_date(live));
        }
        Ok(Board { url: format!("http://{address}/{token}/"), runtime: Some(runtime) })
    }

    /// The address to open, with the token that every page needs.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// Ends it. Open pages say so.
    pub fn close(mut self) {
        self.stop();
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1)); // which breaks off the open streams
        }
    }
}

impl Drop for Board {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A new token: 192 random bits as hexadecimal digits.
fn token() -> Result<String> {
    let mut bytes = [0; TOKEN];
    let source = std::fs::File::open("/dev/urandom").and_then(|mut source| source.read_exact(&mut bytes));
    source.map_err(|cause| Error::new(Kind::Io, format!("/dev/urandom: {cause}")))?;
    Ok(bytes.iter().map(|byte| format!("{byte:02x}")).collect())
}
