//! The body of a request: read within limits, asked which model it is for, and told its slot and adapter.

use std::collections::BTreeMap;
use std::time::Duration;

use http_body_util::BodyExt;
use hyper::StatusCode;
use hyper::body::{Body, Bytes, Incoming};
use serde_json::value::RawValue;
use serde_json::{Value, json};

use crate::serve::refusal::Refusal;
use crate::serve::slots::{AdapterIndex, SlotLease};

/// The largest body.
pub(crate) const MOST_BYTES: usize = 16 << 20;

/// How much of a larger body is read and dropped, so that its sender reads the answer instead of an error of its connection.
const DROPPED_BYTES: usize = 8 * MOST_BYTES;

/// How long a body may take.
const READ_TIME: Duration = Duration::from_secs(60);

const MODEL: &str = "model";

/// Fields that pin a request.
const LORA: &str = "lora";
const SLOT: &str = "id_slot";
const CACHE: &str = "cache_prompt";

/// The most bytes that a body will have, as far as its sender said.
pub(crate) fn announced_bytes(body: &Incoming) -> usize {
    body.size_hint().upper().map_or(MOST_BYTES, |bytes| usize::try_from(bytes).unwrap_or(MOST_BYTES).min(MOST_BYTES))
}

/// Reads a whole body.
pub(crate) async fn read(body: Incoming) -> Result<Bytes, Refusal> {
    match tokio::time::timeout(READ_TIME, read_all(body)).await {
        Ok(read) => read,
        Err(_) => Err(Refusal::new(StatusCode::REQUEST_TIMEOUT, "timeout", "the body did not come within a minute")),
    }
}

async fn read_all(mut body: Incoming) -> Result<Bytes, Refusal> {
    let mut bytes = Vec::new();
    let mut total = 0;
    while let Some(frame) = body.frame().await {
        let frame = frame.map_err(|cause| Refusal::bad_request(format!("the body could not be read: {cause}")))?;
        let Some(data) = frame.data_ref() else { continue };
        total += data.len();
        if total <= MOST_BYTES {
            bytes.extend_from_slice(data);
        } else {
            bytes = Vec::new();
            if total > DROPPED_BYTES {
                break;
            }
        }
    }
    if total > MOST_BYTES {
        let message = format!("the body is larger than {} MiB", MOST_BYTES >> 20);
        return Err(Refusal::new(StatusCode::PAYLOAD_TOO_LARGE, "body_too_large", message));
    }
    Ok(bytes.into())
}

/// A body's fields, each as its text.
#[derive(Debug)]
pub(crate) struct BodyFields<'a>(BTreeMap<String, &'a RawValue>);

impl<'a> BodyFields<'a> {
    pub(crate) fn parse(bytes: &'a [u8]) -> Result<BodyFields<'a>, Refusal> {
        let wrong = |cause| Refusal::bad_request(format!("the body is not a JSON object: {cause}"));
        serde_json::from_slice(bytes).map(BodyFields).map_err(wrong)
    }

    /// The model that the request is for.
    pub(crate) fn model(&self) -> Result<Option<String>, Refusal> {
        let Some(model) = self.0.get(MODEL) else { return Ok(None) };
        serde_json::from_str(model.get()).map_err(|_| Refusal::bad_request("`model` is not a string"))
    }

    /// The number of answers that it asks for.
    pub(crate) fn answers(&self) -> u64 {
        let number = |name| self.0.get(name).and_then(|value| value.get().parse().ok());
        number("n_cmpl").or_else(|| number("n")).unwrap_or(1)
    }

    /// Refuses fields of one's own for what `model` decides.
    pub(crate) fn check_unpinned(&self) -> Result<(), Refusal> {
        match [LORA, SLOT].into_iter().find(|name| self.0.contains_key(*name)) {
            Some(name) => Err(Refusal::bad_request(format!("`{name}` is set by the server here: name the adapter as `model`"))),
            None => Ok(()),
        }
    }

    /// The body for one of `adapters` adapters, or for none of them, in a slot.
    pub(crate) fn pinned(&self, adapters: usize, adapter: AdapterIndex, lease: &SlotLease) -> Bytes {
        let scale = |id| u8::from(adapter == Some(id));
        let scales: Value = (0..adapters).map(|id| json!({"id": id, "scale": scale(id)})).collect();
        let mut own = vec![(LORA, scales)];
        own.extend(lease.id().map(|id| (SLOT, id.into())));
        own.extend((!lease.reusable).then_some((CACHE, false.into())));
        self.with(&own)
    }

    /// The body for an engine that calls the model `name`.
    pub(crate) fn renamed(&self, name: &str) -> Bytes {
        self.with(&[(MODEL, name.into())])
    }

    /// The body with these fields first, in place of its own.
    fn with(&self, own: &[(&str, Value)]) -> Bytes {
        let mut text = String::from("{");
        for (name, value) in own {
            text.push_str(&format!("\"{name}\":{value},"));
        }
        for (name, value) in self.0.iter().filter(|(name, _)| !own.iter().any(|(own, _)| own == name)) {
            text.push_str(&format!("{}:{},", Value::from(name.as_str()), value.get()));
        }
        text.pop();
        text.push('}');
        text.into()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::serve::slots::Slots;

    fn lease(again: bool) -> SlotLease {
        let slots = Slots::new(1);
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        if again {
            drop(runtime.block_on(slots.one(None)));
        }
        runtime.block_on(slots.one(Some(1)))
    }

    #[test]
    fn a_request_is_told_its_adapter_and_its_slot_and_nothing_else_changes() {
        let text = r#"{"model": "a","temperature":0.10,"x\"y":[1,  2],"cache_prompt":true}"#;
        let fields = BodyFields::parse(text.as_bytes()).unwrap();
        assert_eq!(fields.model().unwrap().as_deref(), Some("a"));
        let pinned = fields.pinned(2, Some(1), &lease(false));
        let wanted = r#"{"lora":[{"id":0,"scale":0},{"id":1,"scale":1}],"id_slot":0,"cache_prompt":true,"model":"a","temperature":0.10,"x\"y":[1,  2]}"#;
        assert_eq!(pinned, wanted);
        assert_eq!(fields.renamed("b\"c"), r#"{"model":"b\"c","cache_prompt":true,"temperature":0.10,"x\"y":[1,  2]}"#);
        let fresh: Value = serde_json::from_slice(&fields.pinned(2, Some(1), &lease(true))).unwrap();
        assert_eq!(fresh["cache_prompt"], false);
    }

    #[test]
    fn wrong_bodies_are_refused() {
        for text in ["", "[]", "{", "\"a\"", "\u{feff}{}"] {
            assert_eq!(BodyFields::parse(text.as_bytes()).unwrap_err().status, StatusCode::BAD_REQUEST, "{text}");
        }
        assert!(BodyFields::parse(br#"{"model": 5}"#).unwrap().model().is_err());
        assert!(BodyFields::parse(br#"{"lora": []}"#).unwrap().check_unpinned().is_err());
        assert_eq!(BodyFields::parse(br#"{"n": 3}"#).unwrap().answers(), 3);
    }
}
