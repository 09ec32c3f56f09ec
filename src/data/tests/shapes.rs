//! The data formats of other tools give the conversations that the tool itself would train on.

use serde_json::json;

use crate::data::tests::{GOOD, conversations, faults, read};

#[test]
fn lists_lines_and_byte_order_marks() {
    for text in
        [format!("[{GOOD}, {GOOD}]"), format!("{GOOD}\n{GOOD}\n"), format!("\u{feff}[{GOOD},\n{GOOD}]"), format!("{GOOD}\r\n\r\n{GOOD}")]
    {
        let conversations = read(&text).unwrap();
        assert_eq!(conversations.len(), 2);
        assert_eq!(conversations[1]["messages"][1]["content"], "好");
        assert_eq!(conversations[1]["id"], 7);
    }
}

#[test]
fn all_fields_for_the_template_are_kept() {
    let text = json!([{
        "messages": [
            {"role": "user", "content": [{"type": "text", "text": "a"}, {"type": "text", "text": "b"}], "name": "x", "y": null},
            {"role": "assistant", "content": null, "tool_calls": [{"z": 1, "a": 2}], "train": false},
        ],
        "tools": "[{\"type\": \"function\"}]", "documents": [{"title": "t"}], "chat_template_kwargs": {"enable_thinking": false},
    }]);
    let made = conversations(text.to_string().as_bytes(), 1 << 18).unwrap().remove(0);
    assert_eq!(made.messages[0].content, "ab");
    assert_eq!(serde_json::Value::from(made.messages[0].fields.clone()), json!({"name": "x"}));
    assert_eq!((made.messages[1].content.as_str(), made.messages[1].train), ("", false));
    assert_eq!(made.messages[1].fields["tool_calls"].to_string(), r#"[{"z":1,"a":2}]"#);
    assert_eq!((made.tools, made.documents), (Some(json!([{"type": "function"}])), Some(json!([{"title": "t"}]))));
    assert_eq!(made.chat_template_kwargs["enable_thinking"], false);
}

#[test]
fn share_gpt() {
    let turns = [("human", "q"), ("function_call", r#"{"name": "f", "arguments": {"a": 1}}"#), ("observation", "1"), ("gpt", "one")];
    let turns: Vec<_> = turns.iter().map(|(from, value)| json!({"from": from, "value": value})).collect();
    let made = read(&json!([{"conversations": turns, "system": "s", "tools": "[{\"name\": \"f\"}]"}]).to_string()).unwrap();
    let wanted = json!([
        {"role": "system", "content": "s"},
        {"role": "user", "content": "q"},
        {"role": "assistant", "content": "", "tool_calls": [{"type": "function", "function": {"name": "f", "arguments": {"a": 1}}}]},
        {"role": "tool", "content": "1"},
        {"role": "assistant", "content": "one"},
    ]);
    assert_eq!((&made[0]["messages"], &made[0]["tools"]), (&wanted, &json!([{"name": "f"}])));
}

#[test]
fn alpaca() {
    let text = json!({"instruction": "add", "input": "1 2", "output": "3", "system": "s", "history": [["q", "a"]]});
    let made = read(&format!("{text}\n{}", json!({"instruction": "say", "input": "", "output": "x"}))).unwrap();
    let roles: Vec<_> = made[0]["messages"].as_array().unwrap().iter().map(|message| [&message["role"], &message["content"]]).collect();
    let wanted = [["system", "s"], ["user", "q"], ["assistant", "a"], ["user", "add\n1 2"], ["assistant", "3"]];
    assert_eq!(json!(roles), json!(wanted));
    assert_eq!(made[1]["messages"][0]["content"], "say");
}

#[test]
fn prompt_and_completion() {
    let lists = json!({
        "prompt": [{"role": "user", "content": "q"}, {"role": "assistant", "content": "example"}, {"role": "user", "content": "r"}],
        "completion": [{"role": "assistant", "content": "a"}],
    });
    let made = conversations(format!("[{lists}, {}]", json!({"prompt": "p", "completion": " c"})).as_bytes(), 1 << 18).unwrap();
    let learned: Vec<_> = made[0].messages.iter().map(|message| message.train).collect();
    assert_eq!(learned, [false, false, false, true]);
    assert_eq!((made[1].messages[0].content.as_str(), made[1].messages[1].content.as_str()), ("p", " c"));
}

#[test]
fn faults_are_reported_with_the_path_in_the_original_format() {
    for (text, wanted) in [
        (r#"[{"conversations": [{"from": "humam", "value": "x"}]}]"#, "line 1, column 30, [0].conversations[0].from: unknown sender"),
        (r#"[{"conversations": [{"from": "gpt", "value": 5}]}]"#, "line 1, column 46, [0].conversations[0].value: must be a string"),
        (r#"[{"conversations": [{"from": "gpt", "valu": "x"}]}]"#, "line 1, column 21, [0].conversations[0]: has no \"value\""),
        (
            r#"[{"conversations": [{"from": "function_call", "value": "f(x)"}]}]"#,
            "line 1, column 56, [0].conversations[0].value: must be a call as a JSON string",
        ),
        (r#"[{"conversations": [{"from": "human", "value": "x"}]}]"#, "line 1, column 2, [0]: has no assistant turn"),
        (r#"[{"instruction": "x", "output": ""}]"#, "line 1, column 33, [0].output: is empty"),
        (r#"[{"instruction": "x", "output": "y", "history": [["q"]]}]"#, "line 1, column 50, [0].history[0]: must be a pair"),
        (r#"[{"prompt": "x", "completion": {}}]"#, "line 1, column 32, [0].completion: must be a string, not an object"),
        (r#"[{"prompt": "x", "completion": [{"role": "user", "content": "y"}]}]"#, "line 1, column 2, [0]: has no assistant turn"),
    ] {
        let got = faults(text);
        assert!(got.len() == 1 && got[0].starts_with(wanted), "{text}\n  gave {got:#?}\n  not  {wanted}");
    }
    // The first item whose keys match a format determines the format of the file.
    let mixed = faults(&format!("[{}, {GOOD}]", r#"{"prompt": "x", "completion": "y"}"#));
    assert_eq!(mixed.len(), 2, "{mixed:#?}");
    assert!(mixed[0].contains("[1]: has no \"prompt\""), "{mixed:#?}");
}
