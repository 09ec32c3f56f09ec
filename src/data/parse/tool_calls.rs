//! Tool calls in the form that chat templates read: `[{"type": "function", "function": {"name", "arguments"}}]` with arguments as an object.
//! OpenAI's API has the arguments as JSON text, and an older form has one call as `function_call`.

use serde_json::{Map, Value, json};

use crate::data::parse::json::decoded_text;
use crate::data::parse::remarks::{Remark, Remarks};

/// Whether every call has a name and its arguments as an object, so that nothing must be converted.
pub(crate) fn are_plain(calls: &Value) -> bool {
    let plain = |call: &Value| {
        let function = call.get("function").unwrap_or(call);
        call.is_object() && function["name"].as_str().is_some_and(|name| !name.is_empty()) && function["arguments"].is_object()
    };
    calls.as_array().is_some_and(|calls| calls.iter().all(plain))
}

/// The calls with their arguments decoded. A fault is the path below `tool_calls`, and what is wrong.
pub(crate) fn decoded(calls: Value, remarks: &mut Remarks) -> Result<Value, Vec<(String, String)>> {
    let mut faults = Vec::new();
    let Value::Array(calls) = calls else {
        return Err(vec![(String::new(), "must be a list of calls, {\"function\": {\"name\": …, \"arguments\": {…}}}".into())]);
    };
    let mut made = Vec::new();
    for (i, mut call) in calls.into_iter().enumerate() {
        let nested = call.get("function").is_some_and(Value::is_object);
        let path = if nested { format!("[{i}].function") } else { format!("[{i}]") };
        let function = if nested { &mut call["function"] } else { &mut call };
        match function.as_object_mut() {
            Some(function) => faults.extend(decode_call(function, remarks).map(|(key, what)| (format!("{path}{key}"), what))),
            None => faults.push((path, "must be an object, {\"function\": {\"name\": …, \"arguments\": {…}}}".into())),
        }
        // Arrow fills what a call lacks with null.
        if let Some(call) = call.as_object_mut() {
            call.retain(|_, value| !value.is_null());
        }
        made.push(call);
    }
    if faults.is_empty() { Ok(Value::Array(made)) } else { Err(faults) }
}

/// Decodes the arguments of one call in place. Returns the first fault.
fn decode_call(function: &mut Map<String, Value>, remarks: &mut Remarks) -> Option<(String, String)> {
    if function.get("name").and_then(Value::as_str).is_none_or(str::is_empty) {
        return Some((String::new(), "has no \"name\" of a function".into()));
    }
    let wrong = |what: &str| Some((".arguments".to_string(), what.to_string()));
    let object = match function.get("arguments") {
        Some(Value::Object(_)) => return None,
        Some(Value::String(text)) => match decoded_text(text) {
            Some(Value::Object(object)) => object,
            Some(_) => return wrong("is JSON text, but not of an object; write {\"name\": value, …}, or {} for none"),
            None if text.trim().is_empty() => return wrong("is empty; write {} for a call without arguments"),
            None => return wrong("is a string, but not valid JSON; write the arguments as an object, or as JSON text of one"),
        },
        None => return Some((String::new(), "has no \"arguments\"; write {} for a call without arguments".into())),
        Some(Value::Null) => return wrong("is null; write {} for a call without arguments"),
        Some(_) => return wrong("must be an object, or JSON text of one"),
    };
    remarks.add(Remark::DecodedArguments);
    function.insert("arguments".into(), Value::Object(object));
    None
}

/// One call, `{"name", "arguments"}`, or a list of them, as `tool_calls`.
pub(crate) fn from_flat(value: Value, remarks: &mut Remarks) -> Result<Vec<Value>, Vec<(String, String)>> {
    let calls = match value {
        Value::Array(calls) => calls,
        one => vec![one],
    };
    let calls =
        calls.into_iter().map(|call| if call.get("function").is_some() { call } else { json!({"type": "function", "function": call}) });
    match decoded(calls.collect(), remarks)? {
        Value::Array(calls) if !calls.is_empty() => Ok(calls),
        _ => Err(vec![(String::new(), "has no call".into())]),
    }
}

/// Descriptions of functions as `tools`.
pub(crate) fn tools_of_functions(functions: Value) -> Value {
    let Value::Array(functions) = functions else { return functions };
    functions.into_iter().map(|function| json!({"type": "function", "function": function})).collect()
}
