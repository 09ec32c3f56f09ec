//! Starts the embedded interpreter, once, with its home, executable and packages set by us: left to itself it takes them from
//! whatever `python3` stands first in PATH.

use std::ffi::CString;
use std::os::unix::ffi::OsStrExt;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};

use anyhow::Result;
use pyo3::ffi;
use pyo3::prelude::*;
use pyo3::types::PyDict;

use crate::environment::{self, Environment, PYTHON_HOME};
use crate::logging::debug;
use crate::module::_core;
use crate::{embedded, error};

/// How to come by an environment, set by the command line. A library never installs anything by itself.
#[derive(Clone, Debug, Default)]
pub struct Python3 {
    pub python_env: Option<PathBuf>,
    pub setup: bool,
    pub offline: bool,
}

static WANTED: Mutex<Option<Python3>> = Mutex::new(None);
static STARTED: Mutex<bool> = Mutex::new(false);
static STARTING: std::sync::atomic::AtomicBool = std::sync::atomic::AtomicBool::new(false);

/// Sets which environment the interpreter will use when it starts.
pub fn use_environment(wanted: Python3) {
    *WANTED.lock().unwrap_or_else(PoisonError::into_inner) = Some(wanted);
}

/// Starts Python where it is not running yet.
pub(super) fn start() -> Result<()> {
    start_in(|wanted| {
        let given = wanted.python_env.as_deref();
        if wanted.setup { environment::find_or_make(given, wanted.offline) } else { environment::find(given) }
    })
}

/// As `start`, but makes no environment.
pub(super) fn start_if_there() -> Result<()> {
    start_in(|wanted| environment::find(wanted.python_env.as_deref()))
}

fn start_in(environment: impl FnOnce(&Python3) -> Result<Environment>) -> Result<()> {
    let mut started = STARTED.lock().unwrap_or_else(PoisonError::into_inner);
    // SAFETY: may be called at any time.
    if *started || unsafe { ffi::Py_IsInitialized() } != 0 {
        return Ok(());
    }
    let wanted = WANTED.lock().unwrap_or_else(PoisonError::into_inner).clone().unwrap_or_default();
    let environment = environment(&wanted)?;
    debug!("Python environment {} ({})", environment.folder.display(), environment.from);
    STARTING.store(true, std::sync::atomic::Ordering::Relaxed);
    initialize(&environment)?;
    Python::attach(|py| prepare(py, &environment)).map_err(|raised| Python::attach(|py| super::from_python(py, raised)))?;
    *started = true;
    Ok(())
}

fn initialize(environment: &Environment) -> Result<()> {
    pyo3::append_to_inittab!(_core);
    // SAFETY: the interpreter is not running (checked by the caller under a lock); the configuration is initialized before it is
    // used and cleared after, and every pointer handed over outlives the call.
    unsafe {
        let mut config: ffi::PyConfig = std::mem::zeroed();
        ffi::PyConfig_InitPythonConfig(&raw mut config);
        // Signals, arguments and user packages are the host's affair; a fixed hash seed makes a run repeatable. SIGPIPE alone
        // must be ignored, as Python would have it: a connection that the other side closed is an error and no end.
        libc::signal(libc::SIGPIPE, libc::SIG_IGN);
        config.install_signal_handlers = 0;
        config.parse_argv = 0;
        config.user_site_directory = 0;
        config.use_environment = 0;
        config.safe_path = 1;
        config.use_hash_seed = 1;
        config.hash_seed = 0;
        let python = environment.python();
        let mut status = set(&raw mut config, |config| &raw mut (*config).home, Path::new(PYTHON_HOME));
        if ffi::PyStatus_Exception(status) == 0 {
            status = set(&raw mut config, |config| &raw mut (*config).executable, &python);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = set(&raw mut config, |config| &raw mut (*config).program_name, &python);
        }
        if ffi::PyStatus_Exception(status) == 0 {
            status = ffi::Py_InitializeFromConfig(&raw const config);
        }
        ffi::PyConfig_Clear(&raw mut config);
        if ffi::PyStatus_Exception(status) != 0 {
            let why = if status.err_msg.is_null() {
                "no reason given".into()
            } else {
                std::ffi::CStr::from_ptr(status.err_msg).to_string_lossy()
            };
            return Err(error::setup(format!(
                "Python cannot start from {} ({why}); `pyrust-nn doctor` looks closer",
                environment.folder.display()
            )));
        }
        // Threads attach when they need Python.
        ffi::PyEval_SaveThread();
    }
    Ok(())
}

unsafe fn set(config: *mut ffi::PyConfig, field: impl Fn(*mut ffi::PyConfig) -> *mut *mut libc::wchar_t, value: &Path) -> ffi::PyStatus {
    let text = CString::new(value.as_os_str().as_bytes()).unwrap_or_default();
    // SAFETY: `config` is initialized, the field belongs to it, and the text lives until the call is over.
    unsafe { ffi::PyConfig_SetBytesString(config, field(config), text.as_ptr()) }
}

/// Makes `pyrust_nn` importable from the binary's own files, which win over an installed one.
fn prepare(py: Python<'_>, environment: &Environment) -> PyResult<()> {
    let modules = PyDict::new(py);
    for module in embedded::modules() {
        modules.set_item(module.name, (module.path, module.text, module.package))?;
    }
    let globals = PyDict::new(py);
    globals.set_item("MODULES", modules)?;
    globals.set_item("EXECUTABLE", environment.python())?;
    let code = CString::new(include_str!("bootstrap.py"))?;
    py.run(&code, Some(&globals), None)
}

/// What Python does at its end for a script: waits for threads, calls what is registered for the end, flushes files. The interpreter
/// stays: libraries report its end as leaks of theirs.
pub(crate) fn finish() {
    if started() {
        let done = Python::attach(|py| py.import("pyrust_nn._runtime.host")?.call_method0("finish").map(drop));
        if let Err(raised) = done {
            Python::attach(|py| raised.print(py));
        }
    }
}

/// Whether this program started the interpreter (rather than the interpreter the program).
pub(crate) fn started() -> bool {
    STARTING.load(std::sync::atomic::Ordering::Relaxed)
}

/// `sys.prefix` of the Python that is the program.
pub(crate) fn host_prefix() -> Option<PathBuf> {
    let prefix = |py: Python<'_>| py.import("sys")?.getattr("prefix")?.extract();
    hosted_by_python().then(|| Python::attach(prefix).ok()).flatten()
}

/// Whether Python is the program and this crate a module of it.
pub(crate) fn hosted_by_python() -> bool {
    // SAFETY: may be called at any time.
    !started() && unsafe { ffi::Py_IsInitialized() } != 0
}
