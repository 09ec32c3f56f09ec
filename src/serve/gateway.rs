//! What becomes of a request: access, limits, the model that it names, its slot.

use std::collections::BTreeMap;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::{SystemTime, UNIX_EPOCH};

use hyper::body::{Bytes, Incoming};
use hyper::header::{ACCEPT, CONTENT_TYPE};
use hyper::{Request, Response, StatusCode};
use serde_json::{Value, json};
use tokio::sync::{Semaphore, watch};

use crate::base::error::did_you_mean;
use crate::serve::access::Access;
use crate::serve::backend::ModelBackend;
use crate::serve::forward::{Forwarded, PassedAnswer, forward};
use crate::serve::path::{Route, knows_adapters, name_in_path, name_in_query};
use crate::serve::refusal::{AnswerBody, Refusal, json_response};
use crate::serve::request_body::{self, BodyFields};
use crate::serve::request_record::{InFlight, RequestRecord};
use crate::serve::served_names::ServedName;
use crate::serve::server_log::ServerLog;
use crate::serve::slots::AdapterIndex;

/// The memory of all bodies together.
const BODIES_BYTES: usize = 256 << 20;

/// A unit of it.
const UNIT: usize = 1 << 10;

/// Whether requests are taken.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Phase {
    Serving,
    /// Answers in flight end, new requests are refused.
    Draining,
    /// Connections close.
    Closed,
}

pub(crate) struct Gateway {
    backends: Vec<Arc<ModelBackend>>,
    /// The place of each name: its backend, and its adapter.
    names: BTreeMap<String, (usize, AdapterIndex)>,
    access: Access,
    pub(crate) log: Arc<ServerLog>,
    pub(crate) in_flight: Arc<InFlight>,
    pub(crate) phase: watch::Sender<Phase>,
    memory: Arc<Semaphore>,
    created: u64,
}

impl Gateway {
    pub(crate) fn new(backends: Vec<Arc<ModelBackend>>, access: Access, log: Arc<ServerLog>) -> Gateway {
        let mut names = BTreeMap::new();
        for (index, backend) in backends.iter().enumerate() {
            names.insert(backend.model.name.clone(), (index, None));
            names.extend(backend.adapters.iter().enumerate().map(|(adapter, one)| (one.name.clone(), (index, Some(adapter)))));
        }
        Gateway {
            backends,
            names,
            access,
            log,
            in_flight: Arc::new(InFlight::new(0)),
            phase: watch::Sender::new(Phase::Serving),
            memory: Arc::new(Semaphore::new(BODIES_BYTES / UNIT)),
            created: SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |time| time.as_secs()),
        }
    }

    /// Takes no new requests; the server ends after the answers in flight.
    pub(crate) fn drain(&self) {
        self.phase.send_if_modified(|phase| {
            let serving = *phase == Phase::Serving;
            *phase = (*phase).max(Phase::Draining);
            serving
        });
    }

    /// The answer to a request. It always has one.
    pub(crate) async fn answer(&self, request: Request<Incoming>) -> Result<Response<AnswerBody>, Infallible> {
        let (log, in_flight) = (Arc::clone(&self.log), Arc::clone(&self.in_flight));
        let mut record = RequestRecord::begin(log, in_flight, request.method().clone(), request.uri().path());
        let response = match self.route(request, &mut record).await {
            Ok(GatewayAnswer::Passed(passed)) => return Ok(passed.recorded(record)),
            Ok(GatewayAnswer::Own(value)) => json_response(StatusCode::OK, &value),
            Err(refusal) => refusal.response(),
        };
        record.status(response.status());
        record.whole();
        Ok(response)
    }

    async fn route(&self, request: Request<Incoming>, record: &mut RequestRecord) -> Result<GatewayAnswer, Refusal> {
        match self.checked(&request)? {
            Route::Health => Ok(GatewayAnswer::Own(json!({"status": "ok"}))),
            Route::Models => Ok(GatewayAnswer::Own(json!({"object": "list", "data": self.models()}))),
            Route::Model => {
                let name = name_in_path(request.uri().path());
                let found = self.models().into_iter().find(|model| model["id"] == name.as_str());
                found.map(GatewayAnswer::Own).ok_or_else(|| self.unknown(&name))
            }
            Route::Query => {
                let (backend, _, name) = self.named(name_in_query(request.uri().query()).as_deref())?;
                record.model(name);
                Ok(GatewayAnswer::Passed(forward(backend, forwarded(&request), None).await?))
            }
            route => self.with_body(route, request, record).await,
        }
    }

    /// The route of a request that may be answered now.
    fn checked(&self, request: &Request<Incoming>) -> Result<Route, Refusal> {
        let (method, path) = (request.method(), request.uri().path());
        let route = Route::of(method, path);
        if *self.phase.borrow() != Phase::Serving {
            return Err(Refusal::unavailable("the server is about to end; send the request to another"));
        }
        if route != Some(Route::Health) {
            self.access.check(request.headers())?;
        }
        route.ok_or_else(|| Refusal::new(StatusCode::NOT_FOUND, "unknown_url", format!("there is no {method} {path} here")))
    }

    /// A request whose body names the model.
    async fn with_body(&self, route: Route, request: Request<Incoming>, record: &mut RequestRecord) -> Result<GatewayAnswer, Refusal> {
        let units = request_body::announced_bytes(request.body()).div_ceil(UNIT) as u32;
        let _memory = Arc::clone(&self.memory).acquire_many_owned(units).await.ok();
        let mut sent = forwarded(&request);
        let body = request_body::read(request.into_body()).await?;
        let fields = BodyFields::parse(&body)?;
        let (backend, adapter, name) = self.named(fields.model()?.as_deref())?;
        record.model(name);
        let adapters = backend.adapters.len();
        // Only llama.cpp must be told which adapter it is.
        let is_pinned = adapters > 0 && backend.engine.is_llama();
        let lease = match route {
            Route::Answer if is_pinned => {
                if !knows_adapters(&sent.path) {
                    let message = format!("{} works for models without adapters only; use /v1/chat/completions", sent.path);
                    return Err(Refusal::bad_request(message));
                }
                fields.check_unpinned()?;
                Some(if fields.answers() > 1 { backend.slots.all().await } else { backend.slots.one(adapter).await })
            }
            Route::Answer => Some(backend.slots.one(None).await),
            _ => None,
        };
        sent.body = match &lease {
            Some(lease) if is_pinned => fields.pinned(adapters, adapter, lease),
            _ if backend.engine.is_llama() => body.clone(),
            _ => fields.renamed(&backend.engine.upstream_name(&backend.model).unwrap_or_else(|| name.to_string())),
        };
        Ok(GatewayAnswer::Passed(forward(backend, sent, lease).await?))
    }

    /// The model or adapter of a name; without one, the first model.
    fn named(&self, name: Option<&str>) -> Result<(&ModelBackend, AdapterIndex, &str), Refusal> {
        let Some(name) = name else {
            let first = &self.backends[0];
            return Ok((first, None, &first.model.name));
        };
        let (name, (index, adapter)) = self.names.get_key_value(name).ok_or_else(|| self.unknown(name))?;
        Ok((&self.backends[*index], *adapter, name))
    }

    fn unknown(&self, name: &str) -> Refusal {
        let shown: String = name.chars().take(100).collect();
        let near = did_you_mean(&shown, self.names.keys().map(String::as_str)).map(|near| format!("; did you mean {near}?"));
        let names = || format!("; there are {}", self.names.keys().cloned().collect::<Vec<_>>().join(", "));
        let message = format!("there is no model {shown}{}", near.unwrap_or_else(names));
        Refusal::new(StatusCode::NOT_FOUND, "model_not_found", message)
    }

    /// The list of models and adapters.
    pub(crate) fn models(&self) -> Vec<Value> {
        let of = |backend: &Arc<ModelBackend>| {
            let parent = backend.model.name.clone();
            let adapter = |one: &ServedName| one.entry(self.created, Some(&parent));
            let model = std::iter::once(backend.model.entry(self.created, None));
            model.chain(backend.adapters.iter().map(adapter)).collect::<Vec<_>>()
        };
        self.backends.iter().flat_map(of).collect()
    }
}

/// What a request gets.
enum GatewayAnswer {
    Own(Value),
    Passed(PassedAnswer),
}

/// A request as it is passed on, without its body.
fn forwarded(request: &Request<Incoming>) -> Forwarded {
    let header = |name| request.headers().get(name).cloned();
    Forwarded {
        method: request.method().clone(),
        path: request.uri().path().to_string(),
        content_type: header(CONTENT_TYPE),
        accept: header(ACCEPT),
        body: Bytes::new(),
    }
}
