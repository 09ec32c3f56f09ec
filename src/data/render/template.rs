//! The model's own chat template, rendered as transformers renders it.
//!
//! minijinja is the engine, with the additions of `apply_chat_template` (transformers' `chat_template_utils.py`): `trim_blocks`,
//! `lstrip_blocks`, Python's methods on strings, `raise_exception`, `tojson` in Python's form, `{% generation %}`. Anything whose result
//! may differ is an error ([`Failure::Unsupported`]), and then transformers must render.
//!
//! A template is identified by its hash. Templates that the tests compare with transformers (`compared_templates.txt`) need no Python.
//! Any other template is compared on the user's own conversations.

use std::collections::HashSet;
use std::fmt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use anyhow::Result;
use minijinja::syntax::SyntaxConfig;
use minijinja::value::{Enumerator, Kwargs, Object, Value};
use minijinja::{Environment, Error, ErrorKind, State};
use serde_json::Value as Json;
use xxhash_rust::xxh3::xxh3_128;

use crate::base::{error, signals};
use crate::data::parse::conversation::{ChatMessage, Conversation, Role};
use crate::data::render::jinja_methods;
use crate::data::render::rendering::{PROBE, RenderError, RenderText, place};
use crate::data::render::template_limits::{MAX_STEPS, NotFinished, apart, compile, exceeded, too_large};

/// Hashes of the templates whose renderings are compared with transformers' in `tests/python/test_templates.py`. Any other template is
/// compared on the user's own conversations, which needs Python.
pub const COMPARED: &str = include_str!("compared_templates.txt");

/// A model's chat template and its special tokens.
#[derive(Clone, Debug)]
pub struct ChatTemplate {
    /// Hash of the template and the special tokens.
    pub digest: u128,
    /// Whether our tests compare it with transformers.
    pub compared: bool,
    /// Why minijinja cannot compile it.
    pub unsupported: Option<String>,
    /// Where it was read.
    folder: PathBuf,
    source: String,
    environment: Arc<Environment<'static>>,
    special_tokens: Arc<[(String, Value)]>,
    with_tools: bool,
    /// The words of the template, among them the names of all fields and variables that it reads.
    words: Arc<HashSet<String>>,
}

/// Why a conversation could not be rendered.
#[derive(Debug)]
enum Failure {
    /// The template itself refused it (`raise_exception`).
    Refused(String),
    /// minijinja failed, or may differ from Python.
    Unsupported(String),
    /// A limit stopped it. It would stop in Python too, or never.
    Beyond(String),
    /// By a signal.
    Interrupted,
}

/// The message of `raise_exception`.
#[derive(Debug)]
struct Raised(String);

impl fmt::Display for Raised {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Raised {}

const NAME: &str = "chat";
/// The template for conversations with tools, if the model has a separate one.
const TOOLS: &str = "tool_use";

impl ChatTemplate {
    /// The template of the model in `folder`: `chat_template.jinja`, else `chat_template` in tokenizer_config.json.
    ///
    /// # Errors
    /// Kind `model`: there is no template, or a file is not JSON. Kind `input`: the template is too large.
    pub fn open(folder: &Path) -> Result<ChatTemplate> {
        let config_path = folder.join("tokenizer_config.json");
        let config = match std::fs::read(&config_path) {
            Ok(bytes) => serde_json::from_slice::<Json>(&bytes)
                .map_err(|cause| error::model(format!("{} is broken: {cause}; copy or download it again", config_path.display())))?,
            Err(_) => Json::Null,
        };
        let named = |name: &str| match &config["chat_template"] {
            Json::String(text) if name == "default" => Some(text.clone()),
            Json::Array(list) => {
                let own = list.iter().find(|one| one["name"] == name)?;
                own["template"].as_str().map(ToString::to_string)
            }
            Json::Object(map) => map.get(name)?.as_str().map(ToString::to_string),
            _ => None,
        };
        let file = |path: &str| std::fs::read_to_string(folder.join(path)).ok();
        let Some(main) = file("chat_template.jinja").or_else(|| named("default")) else {
            return Err(error::model(format!(
                "the tokenizer of {} has no chat template, so conversations cannot be written for it; use the model's chat or instruct \
                 version, or put a chat_template.jinja into its folder",
                folder.display()
            )));
        };
        let tools = file("additional_chat_templates/tool_use.jinja").or_else(|| named(TOOLS));
        if let Some(why) = too_large(&main).or_else(|| too_large(tools.as_deref()?)) {
            return Err(beyond(folder, &why));
        }
        Ok(ChatTemplate { folder: folder.to_path_buf(), ..ChatTemplate::new(&main, tools.as_deref(), special_tokens(&config)) })
    }

    fn new(main: &str, tools: Option<&str>, special_tokens: Vec<(String, String)>) -> ChatTemplate {
        let hash = xxh3_128(main.as_bytes());
        let line = format!("{hash:032x}");
        let compared = tools.is_none() && COMPARED.lines().any(|known| known.starts_with(&line));
        let all = format!("{main}\0{}\0{special_tokens:?}", tools.unwrap_or_default());
        let mut environment = environment();
        let mut added = compile(&mut environment, NAME, without_generation(main), compared);
        if let (Ok(()), Some(tools)) = (&added, tools) {
            added = compile(&mut environment, TOOLS, without_generation(tools), compared);
        }
        ChatTemplate {
            digest: xxh3_128(all.as_bytes()),
            compared,
            unsupported: added.err().map(|cause| cause.to_string()),
            folder: PathBuf::new(),
            source: main.to_string(),
            environment: Arc::new(environment),
            special_tokens: special_tokens.into_iter().map(|(name, text)| (name, Value::from(text))).collect(),
            with_tools: tools.is_some(),
            words: Arc::new(words(main).chain(words(tools.unwrap_or_default())).map(ToString::to_string).collect()),
        }
    }

    /// The template's text.
    pub fn source(&self) -> &str {
        &self.source
    }

    /// Whether a field or variable of this name occurs in the template.
    pub(crate) fn mentions(&self, name: &str) -> bool {
        self.words.contains(name)
    }

    /// The text of the token that ends a text (`eos_token`).
    pub(crate) fn end_of_text(&self) -> Option<&str> {
        self.special_tokens.iter().find(|(name, _)| name == "eos_token").and_then(|(_, token)| token.as_str())
    }

    /// Renders `context`, within limits unless the template is `known`.
    fn render(&self, name: &'static str, context: TemplateContext, known: bool) -> Result<String, Failure> {
        let environment = Arc::clone(&self.environment);
        let work = move || environment.get_template(name)?.render(Value::from_object(context));
        match if known { Ok(work()) } else { apart(work) } {
            Ok(rendered) => rendered.map_err(failure),
            Err(NotFinished::TooLong) => Err(Failure::Beyond("does not end within a minute".into())),
            Err(NotFinished::Interrupted) => Err(Failure::Interrupted),
            Err(NotFinished::NoThread) => Err(Failure::Unsupported("no thread can be started to run it".into())),
        }
    }

    /// Renders messages as JSON with further variables, to see whether a limit stops the template. Any other failure is left to
    /// transformers.
    ///
    /// # Errors
    /// Kind `input`: a limit stopped it.
    pub(crate) fn within_limits(&self, messages: &Json, options: &[(String, Json)], prompt: bool) -> Result<()> {
        let mut globals = self.special_tokens.to_vec();
        globals.extend(options.iter().map(|(name, value)| (name.clone(), to_value(value))));
        let context = TemplateContext { messages: to_value(messages), prompt, globals: Arc::new(globals) };
        match self.render(NAME, context, false).err() {
            Some(Failure::Beyond(why)) => Err(beyond(&self.folder, &why)),
            _ => Ok(()),
        }
    }

    /// Prepares a conversation, so that it can be rendered up to any message.
    pub fn prepare(&self, conversation: &Conversation) -> PreparedConversation<'_> {
        let mut globals: Vec<(String, Value)> = self.special_tokens.to_vec();
        let tools = conversation.tools.as_ref().map_or(Value::from(()), to_value);
        let name = if self.with_tools && conversation.tools.is_some() { TOOLS } else { NAME };
        globals.push(("tools".into(), tools));
        globals.push(("documents".into(), conversation.documents.as_ref().map_or(Value::from(()), to_value)));
        globals.extend(conversation.chat_template_kwargs.iter().map(|(name, value)| (name.clone(), to_value(value))));
        PreparedConversation {
            template: self,
            name,
            index: conversation.index,
            messages: conversation.messages.iter().map(|message| Value::from_object(TemplateMessage::new(message))).collect(),
            globals: Arc::new(globals),
        }
    }
}

/// A conversation as the template sees it.
#[derive(Debug)]
pub struct PreparedConversation<'a> {
    template: &'a ChatTemplate,
    name: &'static str,
    /// Of the conversation in its data set.
    index: usize,
    messages: Vec<Value>,
    globals: Arc<Vec<(String, Value)>>,
}

impl RenderText for PreparedConversation<'_> {
    fn text(&self, count: usize, prompt: bool, message: Option<usize>) -> Result<String, RenderError> {
        self.render(self.messages[..count].to_vec(), prompt).map_err(|failure| self.failed(failure, message))
    }

    fn probe(&self, count: usize, role: Role, message: Option<usize>) -> Result<String, RenderError> {
        let mut messages = self.messages[..count].to_vec();
        messages.push(Value::from_object(TemplateMessage::new(&ChatMessage::new(role, PROBE.into()))));
        self.render(messages, false).map_err(|failure| self.failed(failure, message))
    }
}

impl<'a> PreparedConversation<'a> {
    /// The conversation with only these messages.
    pub(crate) fn part(&self, messages: impl Iterator<Item = usize>) -> PreparedConversation<'a> {
        PreparedConversation {
            template: self.template,
            name: self.name,
            index: self.index,
            messages: messages.map(|i| self.messages[i].clone()).collect(),
            globals: Arc::clone(&self.globals),
        }
    }

    fn failed(&self, failure: Failure, message: Option<usize>) -> RenderError {
        let place = place(self.index, message);
        match failure {
            Failure::Unsupported(why) => RenderError::Unsupported(why),
            Failure::Interrupted => RenderError::Failed(signals::interrupted(None).into()),
            Failure::Beyond(why) => RenderError::Failed(beyond(&self.template.folder, &format!("{why} (conversation {place})"))),
            // For a template that is not compared, let transformers decide.
            Failure::Refused(why) if !self.template.compared => RenderError::Unsupported(format!("it refuses conversation {place}: {why}")),
            Failure::Refused(why) => RenderError::Failed(error::input(format!(
                "conversation {place}: the model's chat template refuses it: {why}; change it or leave it out"
            ))),
        }
    }

    fn render(&self, messages: Vec<Value>, prompt: bool) -> Result<String, Failure> {
        if let Some(why) = &self.template.unsupported {
            return Err(Failure::Unsupported(why.clone()));
        }
        let context = TemplateContext { messages: Value::from(messages), prompt, globals: Arc::clone(&self.globals) };
        self.template.render(self.name, context, self.template.compared)
    }
}

/// The error of a template beyond a limit.
fn beyond(folder: &Path, why: &str) -> anyhow::Error {
    error::input(format!("the chat template in {} {why}; use the template of the model's publisher", folder.display()))
}

fn failure(cause: Error) -> Failure {
    if let Some(why) = exceeded(&cause) {
        return Failure::Beyond(why);
    }
    let mut link: Option<&dyn std::error::Error> = Some(&cause);
    while let Some(error) = link {
        if let Some(raised) = error.downcast_ref::<Raised>() {
            return Failure::Refused(raised.0.clone());
        }
        link = error.source();
    }
    Failure::Unsupported(cause.to_string())
}

/// The template's variables.
#[derive(Debug)]
struct TemplateContext {
    messages: Value,
    prompt: bool,
    globals: Arc<Vec<(String, Value)>>,
}

impl Object for TemplateContext {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "messages" => Some(self.messages.clone()),
            "add_generation_prompt" => Some(Value::from(self.prompt)),
            // The last value of a name wins: a conversation's variables override the special tokens.
            _ => self.globals.iter().rev().find(|(name, _)| name == key).map(|(_, value)| value.clone()),
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }
}

/// A message as the template sees it: fields that are null are missing, and content is always present.
#[derive(Debug)]
struct TemplateMessage {
    role: Value,
    content: Value,
    fields: Vec<(String, Value)>,
}

/// Names of the field with the reasoning; templates read the first.
pub(crate) const REASONING: [&str; 3] = ["reasoning_content", "thinking", "reasoning"];

impl TemplateMessage {
    fn new(message: &ChatMessage) -> TemplateMessage {
        let mut fields: Vec<(String, Value)> = message.fields.iter().map(|(name, value)| (name.clone(), to_value(value))).collect();
        // transformers copies the reasoning to the other names (`_alias_reasoning_fields`).
        let get = |name: &&str| message.fields.get(*name);
        if let Some(reasoning) = REASONING.iter().find_map(get).map(to_value) {
            for name in ["reasoning_content", "thinking"] {
                match fields.iter_mut().find(|(known, _)| known == name) {
                    Some((_, value)) if name == "reasoning_content" => *value = reasoning.clone(),
                    Some(_) => {}
                    None => fields.push((name.into(), reasoning.clone())),
                }
            }
        }
        TemplateMessage { role: Value::from(message.role.as_str()), content: Value::from(message.content.as_str()), fields }
    }
}

impl Object for TemplateMessage {
    fn get_value_by_str(self: &Arc<Self>, key: &str) -> Option<Value> {
        match key {
            "role" => Some(self.role.clone()),
            "content" => Some(self.content.clone()),
            _ => self.fields.iter().find(|(name, _)| name == key).map(|(_, value)| value.clone()),
        }
    }

    fn get_value(self: &Arc<Self>, key: &Value) -> Option<Value> {
        self.get_value_by_str(key.as_str()?)
    }

    fn enumerate(self: &Arc<Self>) -> Enumerator {
        let names = ["role", "content"].into_iter().chain(self.fields.iter().map(|(name, _)| name.as_str()));
        Enumerator::Values(names.map(Value::from).collect())
    }
}

/// JSON as a value of a template.
pub(crate) fn to_value(json: &Json) -> Value {
    match json {
        Json::Null => Value::from(()),
        Json::Bool(flag) => Value::from(*flag),
        Json::Number(number) => match (number.as_i64(), number.as_u64()) {
            (Some(whole), _) => Value::from(whole),
            (_, Some(whole)) => Value::from(whole),
            _ => Value::from(number.as_f64().unwrap_or_default()),
        },
        Json::String(text) => Value::from(text.as_str()),
        Json::Array(items) => Value::from(items.iter().map(to_value).collect::<Vec<_>>()),
        Json::Object(map) => Value::from_pairs(map.iter().map(|(name, value)| (name.clone(), to_value(value)))),
    }
}

fn words(template: &str) -> impl Iterator<Item = &str> {
    template.split(|c: char| !(c.is_alphanumeric() || c == '_')).filter(|word| !word.is_empty())
}

/// The special tokens `bos_token`, `eos_token` and so on: name and text.
fn special_tokens(config: &Json) -> Vec<(String, String)> {
    ["bos_token", "eos_token", "unk_token", "sep_token", "pad_token", "cls_token", "mask_token"]
        .into_iter()
        .filter_map(|name| {
            let token = &config[name];
            Some((name.to_string(), token.as_str().or_else(|| token["content"].as_str())?.to_string()))
        })
        .collect()
}

fn environment() -> Environment<'static> {
    let mut environment = Environment::new();
    let syntax = SyntaxConfig::builder().trim_blocks(true).lstrip_blocks(true).build().expect("Jinja's own delimiters");
    environment.set_syntax(syntax);
    environment.set_fuel(Some(MAX_STEPS));
    environment.set_unknown_method_callback(jinja_methods::method);
    environment.set_formatter(|output, _, value| match jinja_methods::text(value)? {
        Some(text) => Ok(output.write_str(&text)?),
        None => Ok(output.write_str(value.as_str().unwrap_or_default())?),
    });
    environment.add_function("raise_exception", |message: String| -> Result<Value, Error> {
        Err(Error::new(ErrorKind::InvalidOperation, message.clone()).with_source(Raised(message)))
    });
    environment.add_filter("tojson", |_: &State, value: Value, options: Kwargs| -> Result<Value, Error> {
        let text = jinja_methods::json(&value, &jinja_methods::JsonOptions::of(&options)?)?;
        options.assert_all_used()?;
        Ok(Value::from(text))
    });
    environment
        .add_filter("string", |value: Value| -> Result<Value, Error> { Ok(jinja_methods::text(&value)?.map_or(value, Value::from)) });
    environment.add_filter("trim", |text: Value, characters: Option<String>| -> Result<Value, Error> {
        let text = jinja_methods::text(&text)?.unwrap_or_else(|| text.as_str().unwrap_or_default().to_string());
        Ok(Value::from(jinja_methods::strip(&text, characters.as_deref(), true, true)))
    });
    environment
}

/// Replaces transformers' tag `{% generation %}` by a condition that is always true, so that blocks nest in the same way.
fn without_generation(template: &str) -> String {
    let mut text = String::with_capacity(template.len());
    let mut rest = template;
    while let Some(at) = rest.find("{%") {
        let (before, tag) = rest.split_at(at);
        text.push_str(before);
        let end = tag.find("%}").map_or(tag.len(), |end| end + 2);
        let word = tag[2..end].trim_end_matches("%}").trim_matches(['-', '+']).trim();
        match word {
            "generation" => text.push_str(&tag[..end].replace("generation", "if true")),
            "endgeneration" => text.push_str(&tag[..end].replace("endgeneration", "endif")),
            _ => text.push_str(&tag[..end]),
        }
        rest = &tag[end..];
    }
    text + rest
}
