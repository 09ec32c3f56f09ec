//! A model of the server: its llama.cpp with the adapters, which is started again once if it ends.

use std::sync::Arc;
use std::time::Duration;

use anyhow::Result;
use log::Level;
use serde_json::json;
use tokio::sync::watch;

use crate::base::error::Error;
use crate::python::{LlamaAddress, ServedModel};
use crate::serve::engine::ServingEngine;
use crate::serve::refusal::Refusal;
use crate::serve::served_names::ServedName;
use crate::serve::server_log::ServerLog;
use crate::serve::slots::Slots;

/// How long a request waits for llama.cpp to be started again.
const RESTART: Duration = Duration::from_secs(120);

/// Settings of every model.
#[derive(Clone, Debug)]
pub(crate) struct BackendSettings {
    pub(crate) parallel: u32,
    pub(crate) ctx_size: Option<u64>,
    pub(crate) device: String,
    pub(crate) engine: ServingEngine,
}

pub(crate) struct ModelBackend {
    pub(crate) model: ServedName,
    pub(crate) adapters: Vec<ServedName>,
    pub(crate) slots: Arc<Slots>,
    /// 0 where the engine decides.
    pub(crate) positions: u64,
    pub(crate) engine: ServingEngine,
    process: ServedModel,
    state: watch::Sender<BackendState>,
}

/// A llama.cpp that runs: the number of its starts, and where it listens.
pub(crate) type Running = (u32, LlamaAddress);

/// It runs, or has ended for good.
type BackendState = std::result::Result<Running, Error>;

impl ModelBackend {
    /// Starts llama.cpp, which loads the files.
    pub(crate) fn start(model: ServedName, adapters: Vec<ServedName>, settings: &BackendSettings) -> Result<ModelBackend> {
        let files: Vec<&str> = adapters.iter().map(|adapter| adapter.file.as_str()).collect();
        let names: Vec<&str> = adapters.iter().map(|adapter| adapter.name.as_str()).collect();
        let engine = settings.engine.clone();
        let process = ServedModel::start(&json!({"name": model.name, "model": model.file, "adapters": files, "adapter_names": names,
            "engine": engine.name(), "llama_server": engine.llama_server(), "parallel": settings.parallel,
            "ctx_size": settings.ctx_size, "device": settings.device}))?;
        let (address, positions) = (process.address()?, process.positions()?);
        let slots = Slots::new(settings.parallel);
        Ok(ModelBackend { model, adapters, slots, positions, engine, process, state: watch::Sender::new(Ok((1, address))) })
    }

    /// Waits for the end of llama.cpp, as long as it is started again.
    ///
    /// # Errors
    /// Kind `model`: it ended for the second time.
    pub(crate) fn watch(&self, log: &ServerLog) -> Result<()> {
        let watched = || -> Result<()> {
            let mut starts = 1;
            while let Some(how) = self.process.wait_and_restart()? {
                starts += 1;
                let address = self.process.address()?;
                log.count(|totals| totals.restarts += 1);
                log.emit(Level::Warn, &format!("{}: {how}; it was started again", self.model.name));
                drop(self.state.send_replace(Ok((starts, address))));
            }
            Ok(())
        };
        watched().inspect_err(|error| drop(self.state.send_replace(Err(Error::of(error)))))
    }

    /// The llama.cpp that runs now.
    pub(crate) fn running(&self) -> Result<Running, Refusal> {
        self.state.borrow().clone().map_err(|error| ended(&error))
    }

    /// The one that runs after the start `failed`, which has failed to answer.
    pub(crate) async fn next(&self, failed: u32) -> Result<Running, Refusal> {
        let mut state = self.state.subscribe();
        let newer = state.wait_for(|state| state.as_ref().map_or(true, |(start, _)| *start > failed));
        match tokio::time::timeout(RESTART, newer).await {
            Ok(Ok(state)) => state.clone().map_err(|error| ended(&error)),
            _ => Err(Refusal::unavailable("the model does not answer; try again later")),
        }
    }

    pub(crate) fn device(&self) -> String {
        self.state.borrow().as_ref().map_or_else(|_| String::new(), |(_, address)| address.device.clone())
    }

    /// Ends llama.cpp.
    pub(crate) fn close(&self) {
        self.process.close();
    }
}

fn ended(error: &Error) -> Refusal {
    Refusal::unavailable(error.message.clone())
}
