//! A running server: started, drained, ended.

use std::net::TcpListener;
use std::path::Path;
use std::sync::mpsc::{Receiver, RecvTimeoutError, channel};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use anyhow::{Context, Result};
use log::Level;
use serde_json::{Map, Value, json};
use tokio::runtime::{Builder, Runtime};

use crate::base::error::{Error, Kind};
use crate::base::numbers::counted;
use crate::base::{secrets, signals};
use crate::params::interface::Interface;
use crate::params::param::TaskParams;
use crate::params::validate::resolve;
use crate::python::{check_served_model, first_model_for};
use crate::serve::access::Access;
use crate::serve::backend::{BackendSettings, ModelBackend};
use crate::serve::conversion::GgufConversion;
use crate::serve::engine::ServingEngine;
use crate::serve::gateway::Gateway;
use crate::serve::http_server::serve_connections;
use crate::serve::listening::{listen, listen_address};
use crate::serve::serve_params::{NAME, SERVED_MODELS, ServeParams, all_params};
use crate::serve::served_names::{ServedName, check_unique};
use crate::serve::server_step::ServerStep;
use crate::session::names::check_name;
use crate::session::{Summary, new_session_id, runs_dir};
use crate::step::devices::check_device;
use crate::step::refusal;

/// The variable with the API key.
pub(crate) const KEY_VARIABLE: &str = "PYRUST_NN_API_KEY";

/// How often an end is waited for before signals are looked at.
const POLL: Duration = Duration::from_millis(20);

/// A server that answers until it is closed. On drop it ends at once.
pub struct Server {
    url: String,
    gateway: Arc<Gateway>,
    backends: Vec<Arc<ModelBackend>>,
    watchers: Vec<JoinHandle<()>>,
    runtime: Option<Runtime>,
    ended: Mutex<Receiver<()>>,
    /// Why it ended by itself.
    failure: Arc<Mutex<Option<Error>>>,
    step: Option<ServerStep>,
    _secrets: secrets::RegisteredSecrets,
}

/// Serves models, each `[name=]ARTIFACT`, until the server is closed. See `docs/serve.md`.
///
/// ```no_run
/// let server = pyrust_nn::serve("s1", &["s1/convert_model_to_gguf"], &pyrust_nn::ServeParams { port: 0, ..Default::default() })?;
/// println!("{}/v1", server.url());
/// server.close()?;
/// # anyhow::Ok(())
/// ```
///
/// # Errors
/// Kind `usage` (a parameter, or the port is taken), `model` (a file), `busy` (the session is in use), `setup` (no xllamacpp).
pub fn serve(session: &str, models: &[&str], params: &ServeParams) -> Result<Server> {
    let mut given = params.given()?;
    given.insert(SERVED_MODELS.name.into(), models.into());
    Server::start(Some(session.to_string()), given, Interface::Rust)
}

/// What a server needs before its step begins.
struct ServerInputs {
    params: Map<String, Value>,
    models: Vec<ServedName>,
    adapters: Vec<ServedName>,
    engine: ServingEngine,
    listener: TcpListener,
    access: Access,
}

/// Checks the parameters, finds the files and opens the port.
fn prepare(session: Option<&str>, given: Map<String, Value>, runs: &Path, interface: Interface) -> Result<ServerInputs> {
    let params = resolve(NAME, all_params(), given, interface)?;
    session.map_or(Ok(()), |session| check_name("session", session))?;
    check_device(&params, interface)?;
    let models = ServedName::all_in(&params, "model", runs, session.unwrap_or_default())?;
    let adapters = ServedName::all_in(&params, "adapter", runs, session.unwrap_or_default())?;
    check_unique(models.iter().chain(&adapters))?;
    // What must be converted is checked afterwards. Without an environment one is made when the models start.
    let engine = ServingEngine::of(&params, interface)?;
    let (models, adapters) =
        if engine.is_llama() { (models, adapters) } else { engine.folders(models, adapters, params["offline"] == Value::Bool(true))? };
    if engine.is_llama() && models.iter().chain(&adapters).all(ServedName::is_gguf) {
        check_files(&models, &adapters, params["ctx_size"].as_u64())
            .or_else(|cause| if Error::of(&cause).kind == Kind::Setup { Ok(()) } else { Err(cause) })?;
    }
    let port = params["port"].as_u64().unwrap_or_default() as u16;
    let address = listen_address(params["host"].as_str().unwrap_or_default(), port, interface)?;
    let access = Access::new(params["api_key"].as_str(), &address, interface)?;
    let listener = listen(&address, interface)?;
    Ok(ServerInputs { params, models, adapters, engine, listener, access })
}

/// Models and adapters in GGUF: those that are not are converted, and then checked.
fn convert(
    conversion: &GgufConversion,
    models: Vec<ServedName>,
    adapters: Vec<ServedName>,
    ctx_size: Option<u64>,
) -> Result<(Vec<ServedName>, Vec<ServedName>)> {
    if models.iter().chain(&adapters).all(ServedName::is_gguf) {
        return Ok((models, adapters));
    }
    let models: Vec<ServedName> = models.into_iter().map(|model| conversion.apply(model, false)).collect::<Result<_>>()?;
    let adapters: Vec<ServedName> = adapters.into_iter().map(|adapter| conversion.apply(adapter, true)).collect::<Result<_>>()?;
    check_files(&models, &adapters, ctx_size)?;
    Ok((models, adapters))
}

/// Checks that llama.cpp can serve these files together.
fn check_files(models: &[ServedName], adapters: &[ServedName], ctx_size: Option<u64>) -> Result<()> {
    let files = |of: &[ServedName]| of.iter().map(|one| one.file.clone()).collect::<Vec<_>>();
    let (models, adapters) = (files(models), files(adapters));
    let is_alone = models.len() == 1;
    models.iter().try_for_each(|model| check_served_model(model, if is_alone { &adapters } else { &[] }, ctx_size))?;
    adapters.iter().filter(|_| !is_alone).try_for_each(|adapter| first_model_for(adapter, &models).map(drop))
}

impl Server {
    /// Starts a server. `session`: `None` makes a new id.
    pub(crate) fn start(session: Option<String>, mut given: Map<String, Value>, interface: Interface) -> Result<Server> {
        if let (None | Some(Value::Null), Some(key)) =
            (given.get("api_key"), std::env::var(KEY_VARIABLE).ok().filter(|key| !key.is_empty()))
        {
            given.insert("api_key".into(), key.into());
        }
        let held = secrets::register(&given);
        let runs = runs_dir(given.get("runs_dir").and_then(Value::as_str).map(Path::new));
        // Before the session is opened: a refused server changes nothing.
        let inputs = prepare(session.as_deref(), given, &runs, interface)
            .inspect_err(|cause| refusal::note(&runs, session.as_deref().unwrap_or_default(), NAME, cause))?;
        let ServerInputs { params, models, adapters, engine, listener, access } = inputs;
        let session = session.unwrap_or_else(new_session_id);
        let address = listener.local_addr()?;
        let text = |name: &str| params[name].as_str().unwrap_or_default();
        let number = |name: &str| params[name].as_u64().unwrap_or_default();

        let mut step = ServerStep::begin(&runs, &session, &params, interface)?;
        let settings = BackendSettings {
            parallel: number("parallel") as u32,
            ctx_size: params["ctx_size"].as_u64(),
            device: text("device").into(),
            engine,
        };
        let url = format!("http://{address}");
        let conversion = GgufConversion {
            outtype: text("outtype"),
            device: text("device"),
            offline: params["offline"] == Value::Bool(true),
            log: &step.log,
        };
        let is_llama = settings.engine.is_llama();
        let ready = if is_llama { convert(&conversion, models, adapters, settings.ctx_size) } else { Ok((models, adapters)) };
        let started = ready.and_then(|(models, adapters)| start_backends(models, adapters, &settings)).and_then(|backends| {
            signals::check()?;
            let gateway = Arc::new(Gateway::new(backends.clone(), access, Arc::clone(&step.log)));
            step.serving(json!({"url": url, "pid": std::process::id(), "models": gateway.models()}))?;
            let (runtime, ended) = run(listener, &gateway)?;
            Ok((backends, gateway, runtime, ended))
        });
        let (backends, gateway, runtime, ended) = match started {
            Ok(started) => started,
            Err(cause) => {
                // The error of the start is the one to report.
                drop(step.end(Some(Error::of(&cause))));
                return Err(cause);
            }
        };
        step.summary.params.insert("device".into(), backends[0].device().into());
        if backends[0].positions > 0 {
            step.summary.params.insert("ctx_size".into(), backends[0].positions.into());
        }
        step.log.emit(Level::Info, &format!("step {} of session {} serves on {url}", step.summary.step, step.summary.session));
        let failure = Arc::new(Mutex::new(None));
        let watchers = backends.iter().map(|backend| watch(backend, &gateway, &failure)).collect::<Result<_>>()?;
        Ok(Server {
            url,
            gateway,
            backends,
            watchers,
            runtime: Some(runtime),
            ended: Mutex::new(ended),
            failure,
            step: Some(step),
            _secrets: held,
        })
    }

    /// Where it listens: `http://127.0.0.1:8080`. The OpenAI API is below `/v1` of it.
    pub fn url(&self) -> &str {
        &self.url
    }

    /// The session of the server's step.
    pub fn session(&self) -> &str {
        self.step.as_ref().map_or("", |step| &step.summary.session)
    }

    /// The name of the server's step.
    pub fn step(&self) -> &str {
        self.step.as_ref().map_or("", |step| &step.summary.step)
    }

    /// The models and adapters, as `/v1/models` lists them.
    pub fn models(&self) -> Vec<Value> {
        self.gateway.models()
    }

    /// Lets the answers in flight end and refuses new requests. Then the server ends.
    pub fn drain(&self) {
        let waits = match *self.gateway.in_flight.borrow() {
            0 => String::new(),
            count => format!(" after {} in flight; a second signal ends it at once", counted(count as u64, "answer")),
        };
        self.gateway.log.emit(Level::Info, &format!("the server ends{waits}"));
        self.gateway.drain();
    }

    /// Waits until the server has ended, but not longer than this. Whether it has.
    pub fn wait(&self, at_most: Duration) -> bool {
        let ended = self.ended.lock().unwrap_or_else(PoisonError::into_inner);
        // The sender is gone when it has ended.
        !matches!(ended.recv_timeout(at_most), Err(RecvTimeoutError::Timeout))
    }

    /// Ends the server after the answers in flight, and returns the step's summary.
    ///
    /// # Errors
    /// Kind `model` if llama.cpp had ended twice, `io` if the summary cannot be written.
    pub fn close(self) -> Result<Summary> {
        self.close_unless(|| Ok(()))
    }

    /// Like `close`; `check` is asked again and again whether to go on waiting.
    ///
    /// # Errors
    /// That of `check` too. Then the server has ended at once.
    pub(crate) fn close_unless(self, mut check: impl FnMut() -> Result<()>) -> Result<Summary> {
        if !self.wait(Duration::ZERO) {
            self.drain();
        }
        while !self.wait(POLL) {
            if let Err(cause) = check() {
                let error = Error::of(&cause);
                self.end(Some(error))?;
                return Err(cause);
            }
        }
        self.ended()
    }

    /// The summary of a server that has ended.
    pub(crate) fn ended(self) -> Result<Summary> {
        let failure = self.failure.lock().unwrap_or_else(PoisonError::into_inner).clone();
        let summary = self.end(failure.clone())?;
        failure.map_or(Ok(summary), |error| Err(error.into()))
    }

    /// Ends it now. The summary has this error.
    pub(crate) fn end(mut self, error: Option<Error>) -> Result<Summary> {
        self.stop();
        self.step.take().context("a server ends once")?.end(error)
    }

    fn stop(&mut self) {
        if let Some(runtime) = self.runtime.take() {
            runtime.shutdown_timeout(Duration::from_secs(1)); // which breaks off what is in flight
        }
        for backend in &self.backends {
            backend.close();
        }
        for watcher in self.watchers.drain(..) {
            drop(watcher.join()); // it logs nothing after this
        }
    }
}

impl Drop for Server {
    fn drop(&mut self) {
        self.stop();
        if let Some(step) = self.step.take() {
            drop(step.end(Some(Error::new(Kind::Interrupted, "the server was dropped by its program; call close"))));
        }
    }
}

/// Starts the engine for each model, with its adapters.
fn start_backends(models: Vec<ServedName>, adapters: Vec<ServedName>, settings: &BackendSettings) -> Result<Vec<Arc<ModelBackend>>> {
    let of_model = settings.engine.adapters_by_model(&models, adapters)?;
    models.into_iter().zip(of_model).map(|(model, adapters)| Ok(Arc::new(ModelBackend::start(model, adapters, settings)?))).collect()
}

/// Runs the server in threads of its own. The receiver hears of its end.
fn run(listener: TcpListener, gateway: &Arc<Gateway>) -> Result<(Runtime, Receiver<()>)> {
    let runtime = Builder::new_multi_thread().worker_threads(2).thread_name("serve").enable_io().enable_time().build()?;
    listener.set_nonblocking(true)?;
    let listener = {
        let _inside = runtime.enter();
        tokio::net::TcpListener::from_std(listener)?
    };
    let (end, ended) = channel::<()>();
    let gateway = Arc::clone(gateway);
    runtime.spawn(async move {
        serve_connections(listener, gateway).await;
        drop(end);
    });
    Ok((runtime, ended))
}

/// Watches a llama.cpp in a thread. If it ends for good, the server drains and fails.
fn watch(backend: &Arc<ModelBackend>, gateway: &Arc<Gateway>, failure: &Arc<Mutex<Option<Error>>>) -> Result<JoinHandle<()>> {
    let (backend, gateway, failure) = (Arc::clone(backend), Arc::clone(gateway), Arc::clone(failure));
    let watching = move || {
        if let Err(cause) = backend.watch(&gateway.log) {
            let error = Error::of(&cause);
            gateway.log.emit(Level::Error, &format!("{}: {}; the server ends", backend.model.name, error.message));
            failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
            gateway.drain();
        }
    };
    Ok(std::thread::Builder::new().name("llama.cpp".into()).spawn(watching)?)
}
