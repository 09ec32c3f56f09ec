//! The parameters of `board`.

use crate::params::prelude::*;
use crate::params::task::Examples;

pub(crate) const NAME: &str = "board";
pub(crate) const ABOUT: &str = "Show all sessions in the browser, live: states, reports, logs and comparisons";
pub(crate) const EXAMPLES: Examples = [
    ("Show the sessions in runs/; open the address that is printed:", "pyrust-nn board"),
    ("On a port of your choice, with buttons that stop and resume sessions:", "pyrust-nn board --port 8090 --allow-control"),
];

params! {
    []
    /// Show all sessions in the browser.
    BoardParams {
        /// Port to listen on, at 127.0.0.1; 0 is any free one.
        default port: u32 = 0, int(0, 65_535), Server;
        /// Let the pages stop and resume sessions. Without it they only show.
        default allow_control: bool = false, ParamType::Bool, Server;
        /// Folder of all sessions. If unset: PYRUST_NN_RUNS, otherwise `runs` in the working directory.
        unset runs_dir: PathBuf = PathBuf::new(), ParamType::Path, Global;
    }
}
