//! One item of a data set: its fields by meaning, and those that every format shares (tools, documents, system prompt, training flag).

use serde_json::Value;
use serde_json::value::RawValue;

use crate::base::error::did_you_mean;
use crate::data::parse::columns::Layout;
use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::parse::fast;
use crate::data::parse::item_keys::{MEDIA, SHARED, TEXT_ALONE, is_provenance};
use crate::data::parse::json::{JsonObject, JsonString, is_empty, join_path, string_value};
use crate::data::parse::problem_collector::ProblemCollector;
use crate::data::parse::remarks::Remark;
use crate::data::parse::tool_calls::tools_of_functions;
use crate::data::parse::train_flag::read_train;

/// An item with the names of its fields translated by `columns`.
pub(crate) struct Item<'a> {
    pub object: JsonObject<'a>,
    pub text: &'a str,
    pub root: &'a str,
    pub layout: &'a Layout,
    /// Which entries of the layout's columns the item has, in their order, as bits.
    columns: u16,
}

impl<'a> Item<'a> {
    pub fn new(object: JsonObject<'a>, text: &'a str, root: &'a str, layout: &'a Layout) -> Item<'a> {
        if layout.columns.is_empty() {
            return Item { object, text, root, layout, columns: 0 };
        }
        let names: Vec<&str> = object.names().collect();
        let has = layout.columns.values().enumerate().filter(|(_, column)| names.contains(&column.as_str()));
        let columns = has.fold(0, |columns, (i, _)| columns | 1 << i);
        let translated = object.0.into_iter().map(|(key, raw)| match layout.canonical(&key.0) {
            Some(name) => (JsonString(name.to_string().into()), raw),
            // A column in whose place another was given keeps a name that nothing reads.
            None => (JsonString(format!("{} (replaced)", key.0).into()), raw),
        });
        Item { object: JsonObject(translated.collect()), text, root, layout, columns }
    }

    pub fn has(&self, key: &str) -> bool {
        self.object.get_non_null(key).is_some()
    }

    pub fn get(&self, key: &str) -> Option<&'a RawValue> {
        self.object.get_non_null(key)
    }

    /// The path of a field in the file.
    pub fn path(&self, key: &str) -> String {
        join_path(self.root, self.layout.column(key))
    }

    /// Reports a missing field, with the nearest name as a suggestion.
    pub fn missing(&self, key: &str, problems: &mut ProblemCollector) {
        let column = self.layout.column(key);
        if let Some(raw) = self.object.get(key) {
            return problems.add(raw.get(), self.path(key), "is null; give a value or remove the conversation");
        }
        let near = did_you_mean(column, self.object.names()).map(|near| format!("; is {near:?} misspelled?")).unwrap_or_default();
        problems.add(self.text, self.root, format!("has no {column:?}{near}"));
    }

    /// A string that may be absent, null or empty.
    pub fn optional_string(&self, key: &str, problems: &mut ProblemCollector) -> Option<String> {
        let raw = self.get(key)?;
        let given = string_value(raw);
        if given.is_none() {
            problems.must_be("a string", raw, &self.path(key));
        }
        given.filter(|text| !text.is_empty())
    }

    /// A conversation without messages: tools, documents and template variables. `own` are the keys that the format reads itself; any
    /// other is noted as ignored.
    pub fn shared_fields(&self, own: &[&str], problems: &mut ProblemCollector) -> Conversation {
        let mut made = Conversation::default();
        made.remarks.columns = self.columns;
        made.tools = self.list("tools", "a list of tool descriptions (objects), or such a list as a JSON string", &mut made, problems);
        if let Some(raw) = self.get("functions") {
            let functions = self.list("functions", "a list of descriptions of functions (objects)", &mut made, problems);
            if made.tools.is_some() && functions.is_some() {
                problems.add(raw.get(), self.path("functions"), "is given beside \"tools\"; keep one of them");
            } else if let Some(functions) = functions {
                made.remarks.add(Remark::FunctionDescriptions);
                made.tools = Some(tools_of_functions(functions));
            }
        }
        made.documents = self.list("documents", "a list of objects", &mut made, problems);
        if let Some(raw) = self.get("chat_template_kwargs") {
            let value = serde_json::from_str::<Value>(raw.get()).unwrap_or_default();
            let value = match &value {
                Value::String(text) => serde_json::from_str(text).unwrap_or(value),
                _ => value,
            };
            match fast::parse_object(value) {
                Ok(given) => made.chat_template_kwargs = given,
                Err(_) => problems.must_be("an object", raw, &self.path("chat_template_kwargs")),
            }
        }
        for name in MEDIA.into_iter().filter(|name| !own.contains(name)) {
            if let Some(raw) = self.get(name).filter(|raw| !is_empty(raw)) {
                problems.add(raw.get(), self.path(name), TEXT_ALONE);
            }
        }
        let names = self.object.0.iter().filter(|(_, raw)| raw.get() != "null").map(|(key, _)| &*key.0);
        for name in names.filter(|name| !own.contains(name) && !SHARED.contains(name) && !MEDIA.contains(name) && !is_provenance(name)) {
            made.remarks.ignore(name.trim_end_matches(" (replaced)"));
        }
        made
    }

    /// A list of objects, also as JSON text, and with JSON text as its elements; `None` if empty.
    fn list(&self, key: &str, expected: &str, made: &mut Conversation, problems: &mut ProblemCollector) -> Option<Value> {
        let raw = self.get(key)?;
        match fast::parse_tools(serde_json::from_str(raw.get()).unwrap_or_default()) {
            Ok((list, decoded)) => {
                if decoded {
                    made.remarks.add(Remark::DecodedJsonText);
                }
                list
            }
            Err(_) => {
                problems.add(raw.get(), self.path(key), format!("must be {expected}"));
                None
            }
        }
    }

    /// Puts the system prompt that stands beside the messages before them, and applies the item's training flag.
    pub fn complete(&self, made: &mut Conversation, problems: &mut ProblemCollector) {
        let given: Vec<(&str, String)> =
            ["system", "system_prompt"].into_iter().filter_map(|key| Some((key, self.optional_string(key, problems)?))).collect();
        if let [(_, first), (second, other)] = given.as_slice()
            && first != other
        {
            problems.add(self.text, self.path(second), "differs from \"system\"; keep one of them");
        }
        if let Some((key, system)) = given.into_iter().next() {
            match made.messages.iter().find(|message| message.role == Role::System) {
                Some(message) if message.content == system => {}
                Some(_) => {
                    let raw = self.get(key).map_or(self.text, RawValue::get);
                    problems.add(raw, self.path(key), "is a second system prompt: there is a system message already; keep one of them");
                }
                None => {
                    made.remarks.add(Remark::SystemField);
                    made.messages.insert(0, ChatMessage::new(Role::System, system));
                }
            }
        }
        if read_train(&self.object, self.root, problems) == Some(false) {
            made.messages.iter_mut().for_each(|message| message.train = false);
        }
    }
}

/// Reports a conversation without an assistant turn, if every role is known.
pub(crate) fn require_assistant_turn(messages: Option<&[ChatMessage]>, item: &Item, problems: &mut ProblemCollector) {
    if messages.is_some_and(|messages| messages.iter().all(|message| message.role != Role::Assistant)) {
        let what = "has no assistant turn, so there is nothing to train on; add one or remove the conversation";
        problems.add(item.text, item.root, what);
    }
}
