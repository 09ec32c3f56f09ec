//! Says of an item in no known format what it is, what may have been meant, and what to do.

use strsim::jaro_winkler;

use crate::base::error::did_you_mean;
use crate::data::parse::columns::Layout;
use crate::data::parse::dataset_format::KNOWN;
use crate::data::parse::item_keys::is_provenance;
use crate::data::parse::json::{JsonObject, array_elements, json_type_name};

/// The keys by which formats are recognized.
const KEYS: [&str; 13] = [
    "messages",
    "conversations",
    "instruction",
    "output",
    "prompt",
    "completion",
    "question",
    "answer",
    "query",
    "response",
    "text",
    "chosen",
    "rejected",
];

/// How similar a misspelling is at least: higher than elsewhere, because a key of another meaning is usual.
const SIMILAR: f64 = 0.88;

/// How many keys are named.
const SHOWN_KEYS: usize = 12;

/// What is wrong with a file whose first item is an object in no known format. `alone`: it is all that the file holds.
pub(crate) fn unknown_object(item: &str, alone: bool, layout: &Layout) -> String {
    let object = JsonObject::parse(item).unwrap_or(JsonObject(Vec::new()));
    let names: Vec<&str> = object.names().collect();
    if let Some((meaning, column)) = layout.columns.iter().find(|(_, column)| !names.contains(&column.as_str())) {
        let near = did_you_mean(column, names.iter().copied()).map(|near| format!("; did you mean {near:?}?")).unwrap_or_default();
        return format!("columns says that {meaning} is {column:?}, but the first conversation has {}{near}", keys(&names));
    }
    let near: Vec<String> = names.iter().filter_map(|key| Some(format!("{:?} by {key:?}", near(key, &names)?))).take(3).collect();
    if let Some(inner) = inner_items(&object).filter(|_| alone && near.is_empty()) {
        return format!("the file is one object, not a list of conversations: {inner}");
    }
    let found = if names.is_empty() { keys(&names) } else { format!("{}, which are no known format", keys(&names)) };
    let near = if near.is_empty() { "; the".to_string() } else { format!("; did you mean {}? The", near.join(" and ")) };
    format!(
        "the first conversation has {found}{near} formats are {KNOWN}. For other names say which is which: --columns user=… --columns \
         assistant=…"
    )
}

/// The keys of an object, the first of them if there are many.
fn keys(names: &[&str]) -> String {
    let more = if names.len() > SHOWN_KEYS { ", …" } else { "" };
    let shown = names.iter().take(SHOWN_KEYS).map(|key| format!("{key:?}")).collect::<Vec<_>>().join(", ");
    if names.is_empty() { "no keys".into() } else { format!("the keys {shown}{more}") }
}

/// What is wrong with a file whose first item is no object. `None` if it is one, or not valid JSON.
pub(crate) fn no_object(item: &str) -> Option<String> {
    let raw: &serde_json::value::RawValue = serde_json::from_str(item).ok()?;
    let what = json_type_name(raw);
    let first = array_elements(raw.get()).unwrap_or_default().into_iter().next();
    let first = first.and_then(|first| JsonObject::parse(first.get()));
    let is_message = first.is_some_and(|first| first.get("role").is_some() || first.get("from").is_some());
    match what {
        "an object" => None,
        _ if is_message => Some("the first conversation is a list of messages, not an object; write it as {\"messages\": [...]}".into()),
        "a string" => {
            Some(format!("the first conversation is a string, not an object; write plain text as {{\"text\": …}}. The formats are {KNOWN}"))
        }
        _ => Some(format!("the first conversation is {what}, not an object; the formats are {KNOWN}")),
    }
}

/// The key that a misspelled one stands for.
fn near(key: &str, names: &[&str]) -> Option<&'static str> {
    if KEYS.contains(&key) || is_provenance(key) {
        return None;
    }
    let wrong = key.to_lowercase();
    let rated = KEYS.into_iter().filter(|known| !names.contains(known)).map(|known| (jaro_winkler(&wrong, known), known));
    rated.filter(|(likeness, _)| *likeness > SIMILAR).max_by(|a, b| a.0.total_cmp(&b.0)).map(|(_, known)| known)
}

/// What to do with an object around the list of conversations, or around several, or around the conversations themselves. `None` if it
/// holds no objects.
fn inner_items(object: &JsonObject) -> Option<String> {
    if !object.0.is_empty() && object.0.iter().all(|(_, raw)| raw.get().starts_with('{')) {
        return Some("its values are objects; write them as a list, as `jq '[.[]]'` does".into());
    }
    let lists = object.0.iter().filter_map(|(key, raw)| {
        let items = array_elements(raw.get())?;
        items.first()?.get().starts_with('{').then(|| (key.0.to_string(), items.len()))
    });
    let lists: Vec<(String, usize)> = lists.collect();
    let (first, _) = lists.first()?;
    let is_plain =
        first.bytes().all(|byte| byte.is_ascii_alphanumeric() || byte == b'_') && first.starts_with(|c: char| !c.is_ascii_digit());
    let path = if is_plain { format!(".{first}") } else { format!("'.{first:?}'") };
    let held: Vec<String> = lists.iter().take(3).map(|(key, count)| format!("{key:?} holds a list of {count}")).collect();
    let which = if lists.len() == 1 { "that list to a file" } else { "each list to a file of its own" };
    Some(format!("{}; write {which}, as `jq {path}` does", held.join(", ")))
}
