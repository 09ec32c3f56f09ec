//! Converts the formats of other tools to conversations: ShareGPT, Alpaca, question and answer, prompt and completion, plain text, preference
//! pairs. The first items of a file decide the format of the whole file.

use serde_json::value::RawValue;

use crate::data::parse::conversation::{ChatMessage, Conversation, Role, SampleKind};
use crate::data::parse::item::{Item, require_assistant_turn};
use crate::data::parse::item_keys::{ANSWERS, QUESTIONS};
use crate::data::parse::json::array_elements;
use crate::data::parse::messages::{read_content, read_messages};
use crate::data::parse::problem_collector::ProblemCollector;
use crate::data::parse::remarks::{Remark, Remarks};

/// A list of messages under `messages` or `conversations`.
pub(crate) fn read_chat(item: &Item, sharegpt: bool, answered: bool, problems: &mut ProblemCollector) -> Option<Conversation> {
    let keys = if sharegpt { ["conversations", "messages"] } else { ["messages", "conversations"] };
    let key = keys.into_iter().find(|key| item.has(key)).unwrap_or(keys[0]);
    let mut made = item.shared_fields(&[key], problems);
    let Some(raw) = item.get(key) else {
        item.missing(key, problems);
        return None;
    };
    let messages = read_messages(raw, &item.path(key), sharegpt, problems, &mut made.remarks);
    if answered {
        require_assistant_turn(messages.as_deref(), item, problems);
    }
    made.messages = messages?;
    item.complete(&mut made, problems);
    Some(made)
}

/// Content that must exist and not be blank.
fn required_content(key: &str, item: &Item, problems: &mut ProblemCollector) -> String {
    match item.get(key) {
        Some(raw) => read_content(raw, &item.path(key), false, problems),
        None => {
            item.missing(key, problems);
            String::new()
        }
    }
}

pub(crate) fn read_alpaca(item: &Item, answered: bool, problems: &mut ProblemCollector) -> Option<Conversation> {
    // `columns` names an instruction `user` and an output `assistant`.
    let key = |own: &'static str, renamed: &'static str| if !item.has(own) && item.has(renamed) { renamed } else { own };
    let (instruction, output) = (key("instruction", "prompt"), key("output", "completion"));
    let mut made = item.shared_fields(&[instruction, output, "input", "history"], problems);
    read_history(item, &mut made.messages, problems);
    let mut question = required_content(instruction, item, problems);
    if let Some(input) = item.optional_string("input", problems) {
        question.push('\n');
        question.push_str(&input);
    }
    made.messages.push(ChatMessage::new(Role::User, question));
    if answered || item.has(output) {
        made.messages.push(ChatMessage::new(Role::Assistant, required_content(output, item, problems)));
    }
    item.complete(&mut made, problems);
    Some(made)
}

fn read_history(item: &Item, messages: &mut Vec<ChatMessage>, problems: &mut ProblemCollector) {
    let Some(raw) = item.get("history") else { return };
    let path = item.path("history");
    let Some(pairs) = array_elements(raw.get()) else {
        return problems.must_be("a list of pairs, question and answer", raw, &path);
    };
    for (i, pair) in pairs.into_iter().enumerate() {
        let path = format!("{path}[{i}]");
        match array_elements(pair.get()).as_deref() {
            Some([question, answer]) => {
                messages.push(ChatMessage::new(Role::User, read_content(question, &format!("{path}[0]"), false, problems)));
                messages.push(ChatMessage::new(Role::Assistant, read_content(answer, &format!("{path}[1]"), false, problems)));
            }
            _ => problems.add(pair.get(), path, "must be a pair, question and answer"),
        }
    }
}

/// A string as one message, or a list of messages.
fn read_part(
    key: &str,
    raw: &RawValue,
    role: Role,
    item: &Item,
    problems: &mut ProblemCollector,
    remarks: &mut Remarks,
) -> Option<Vec<ChatMessage>> {
    let path = item.path(key);
    if raw.get().starts_with('[') {
        return read_messages(raw, &path, false, problems, remarks);
    }
    Some(vec![ChatMessage::new(role, read_content(raw, &path, false, problems))])
}

/// A question and an answer under any of their names. Only the answer is trained on.
pub(crate) fn read_pair(item: &Item, names: [&str; 2], answered: bool, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut found =
        [QUESTIONS.as_slice(), ANSWERS.as_slice()].map(|keys| keys.iter().copied().filter(|key| item.has(key)).collect::<Vec<_>>());
    // An instruction may come with an input or a context, which belongs to the question.
    let mut more = None;
    if found[0].len() == 2 && found[0].contains(&"input") {
        found[0].retain(|key| *key != "input");
        more = Some("input");
    }
    if item.has("context") && more.is_none() {
        more = Some("context");
    }
    for (keys, name) in found.iter().zip(["question", "answer"]) {
        if let [first, second, ..] = keys.as_slice() {
            let what = format!(
                "has both {first:?} and {second:?}, and either may be the {name}; name the columns, as in --columns user=… assistant=…"
            );
            problems.add(item.text, item.root, what);
            return None;
        }
    }
    let [question, answer] = [0, 1].map(|i| found[i].first().copied().unwrap_or(names[i]));
    let mut made = item.shared_fields(&[question, answer, "history", more.unwrap_or(question)], problems);
    read_history(item, &mut made.messages, problems);
    let part = |key: &str, role: Role, problems: &mut ProblemCollector, remarks: &mut Remarks| match item.get(key) {
        None => {
            item.missing(key, problems);
            None
        }
        Some(raw) => read_part(key, raw, role, item, problems, remarks),
    };
    let mut prompt = part(question, Role::User, problems, &mut made.remarks);
    if let Some(more) = more
        && let Some(text) = item.optional_string(more, problems)
        && let Some(last) = prompt.as_mut().and_then(|prompt| prompt.last_mut())
    {
        last.content.push('\n');
        last.content.push_str(&text);
        made.remarks.add(Remark::Context);
    }
    let completion =
        if answered || item.has(answer) { part(answer, Role::Assistant, problems, &mut made.remarks) } else { Some(Vec::new()) };
    if answered {
        require_assistant_turn(completion.as_deref(), item, problems);
    }
    // Assistant turns in the prompt are context and not trained on.
    let prompt = prompt?.into_iter().map(|message| ChatMessage { train: false, ..message });
    made.messages = made.messages.into_iter().chain(prompt).chain(completion?).collect();
    item.complete(&mut made, problems);
    Some(made)
}

/// Plain text: all of it is trained on.
pub(crate) fn read_text(item: &Item, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut made = item.shared_fields(&["text"], problems);
    for key in ["system", "system_prompt", "tools", "functions", "documents"].into_iter().filter(|key| item.has(key)) {
        let raw = item.get(key).map_or(item.text, RawValue::get);
        problems.add(
            raw,
            item.path(key),
            "has no place in plain text, which no chat template renders; remove it, or write {\"messages\": [...]}",
        );
    }
    made.kind = SampleKind::PlainText;
    made.remarks.add(Remark::PlainText);
    made.messages = vec![ChatMessage::new(Role::Assistant, required_content("text", item, problems))];
    item.complete(&mut made, problems);
    Some(made)
}

/// A preferred and a rejected answer. The conversation is the preferred one.
pub(crate) fn read_preference(item: &Item, problems: &mut ProblemCollector) -> Option<Conversation> {
    let mut made = item.shared_fields(&["prompt", "chosen", "rejected"], problems);
    made.kind = SampleKind::Preference;
    let mut side = |key: &str| match item.get(key) {
        None => {
            item.missing(key, problems);
            None
        }
        Some(raw) => {
            let messages = read_part(key, raw, Role::Assistant, item, problems, &mut made.remarks);
            require_assistant_turn(messages.as_deref(), item, problems);
            messages
        }
    };
    let (chosen, rejected) = (side("chosen"), side("rejected"));
    let prompt = match item.get("prompt") {
        Some(raw) => read_part("prompt", raw, Role::User, item, problems, &mut made.remarks)?,
        None => Vec::new(),
    };
    rejected?;
    let prompt = prompt.into_iter().map(|message| ChatMessage { train: false, ..message });
    made.messages = prompt.chain(chosen?).collect();
    item.complete(&mut made, problems);
    Some(made)
}
