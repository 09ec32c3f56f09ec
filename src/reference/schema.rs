//! The JSON schema of pipeline.toml, for editors: completion, help and errors while typing (Taplo, Even Better TOML).
//! `docs/pipeline.schema.json` is a copy, which a test compares.

use serde_json::{Map, Value, json};

use crate::params::param::{Param, Presence};
use crate::params::param_type::ParamType;
use crate::tasks::TASKS;

/// The name of the file that `init` writes beside a pipeline.
pub(crate) const SCHEMA_FILE: &str = "pipeline.schema.json";

/// The schema as text.
pub(crate) fn pipeline_schema() -> String {
    let mut all = Map::new();
    for param in TASKS.iter().flat_map(|task| task.all_params()) {
        all.entry(param.name).or_insert_with(|| property(param));
    }
    let any_step = json!({"type": "object", "properties": all, "additionalProperties": false});
    let mut top = all.clone();
    top.insert("session".into(), json!({"type": "string", "description": "Name of the session. If unset: a new id."}));
    top.insert(
        "for".into(),
        json!({
            "description": "[for.\"<model>\".<step>]: parameters of a step that apply to one model only.",
            "type": "object",
            "additionalProperties": {"type": "object", "additionalProperties": any_step}
        }),
    );
    let steps: Vec<Value> = TASKS
        .iter()
        .map(|task| {
            let mut properties = Map::new();
            properties.insert("task".into(), json!({"const": task.name, "description": task.about}));
            properties.insert("name".into(), json!({"type": "string", "description": "Name of the step. If unset: the task's name."}));
            properties.extend(task.all_params().filter(|param| param.name != "step").map(|param| (param.name.into(), property(param))));
            json!({"title": task.name, "type": "object", "required": ["task"], "properties": properties, "additionalProperties": false})
        })
        .collect();
    top.shift_remove("step");
    top.insert("step".into(), json!({"description": "The steps, in order.", "type": "array", "minItems": 1, "items": {"oneOf": steps}}));
    let schema = json!({
        "$schema": "http://json-schema.org/draft-07/schema#",
        "title": "A pipeline of Pyrust-NN",
        "description": "Keys above the steps go to every step that has such a parameter. \"@name\" is what an earlier step made.",
        "type": "object",
        "required": ["step"],
        "properties": top,
        "additionalProperties": false
    });
    let text = serde_json::to_string_pretty(&schema).unwrap_or_default();
    format!("{text}\n")
}

fn property(param: &Param) -> Value {
    let Value::Object(mut property) = type_schema(param.value_type) else { unreachable!("a schema is an object") };
    property.insert("description".into(), param.full_help().into());
    if param.presence == Presence::Default {
        property.insert("default".into(), (param.default)());
    }
    Value::Object(property)
}

/// One of the names, in lower or upper case.
fn any_case(names: &[&str]) -> Value {
    let upper: Vec<String> = names.iter().map(|name| name.to_uppercase()).collect();
    json!({"enum": names.iter().copied().chain(upper.iter().map(String::as_str)).collect::<Vec<_>>()})
}

/// What [`ParamType::accept`] accepts. A path is never empty.
fn type_schema(param_type: ParamType) -> Value {
    let text = json!({"type": "string", "minLength": 1});
    let list = |items: &Value| json!({"type": "array", "minItems": 1, "items": items});
    match param_type {
        ParamType::Path
        | ParamType::Model
        | ParamType::Adapter
        | ParamType::Candidate
        | ParamType::Imatrix
        | ParamType::AnsweringModel
        | ParamType::String => text,
        ParamType::GgufAdapters | ParamType::NamedArtifacts | ParamType::TextList => json!({"anyOf": [text, list(&text)]}),
        ParamType::Bool => json!({"type": "boolean"}),
        ParamType::Device => json!({"type": "string", "pattern": "^(auto|cpu|cuda|cuda:[0-9]{1,3})$"}),
        ParamType::Int { min, max } => json!({"type": "integer", "minimum": min, "maximum": max}),
        ParamType::Processes { max } => json!({"anyOf": [{"const": "auto"}, {"type": "integer", "minimum": 1, "maximum": max}]}),
        ParamType::Float { min, max, above: false } => json!({"type": "number", "minimum": min, "maximum": max}),
        ParamType::Float { min, max, above: true } => json!({"type": "number", "exclusiveMinimum": min, "maximum": max}),
        ParamType::Choice(names) => json!({"enum": names}),
        ParamType::IntChoice(numbers) => json!({"enum": numbers}),
        ParamType::StringList => list(&text),
        ParamType::IntList => list(&json!({"type": "integer", "minimum": 0})),
        ParamType::FloatList { min, max } => {
            let number = json!({"type": "number", "minimum": min, "maximum": max});
            json!({"anyOf": [number, list(&number)]})
        }
        ParamType::Paths => {
            let weighted = json!({
                "type": "object",
                "required": ["path"],
                "additionalProperties": false,
                "properties": {"path": text, "weight": {"type": "number"}, "max_rows": {"type": "integer", "minimum": 1}}
            });
            json!({"anyOf": [text, weighted, list(&json!({"anyOf": [text, weighted]}))]})
        }
        ParamType::ChoiceList(names) => json!({"anyOf": [{"enum": names}, list(&json!({"enum": names}))]}),
        // In either case.
        ParamType::Caseless(names) => any_case(names),
        ParamType::CaselessList { names, aliases } => {
            let known: Vec<&str> = names.iter().copied().chain(aliases.iter().map(|(alias, _)| *alias)).collect();
            json!({"anyOf": [any_case(&known), list(&any_case(&known))]})
        }
        ParamType::Prompts => {
            let message = json!({
                "type": "object",
                "required": ["role", "content"],
                "properties": {"role": {"type": "string"}, "content": {"type": "string"}}
            });
            let conversation = list(&message);
            json!({"anyOf": [text, conversation, list(&json!({"anyOf": [text, conversation]}))]})
        }
        ParamType::Object | ParamType::JsonObject => json!({"type": "object"}),
        ParamType::Names(names) => json!({"type": "object", "propertyNames": {"enum": names}, "additionalProperties": text}),
    }
}
