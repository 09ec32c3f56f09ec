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
            {"role": "assistant", "content": null, "tool_calls": [{"z": 1, "name": "f", "arguments": {"b": 1, "a": 2}}], "train": false},
        ],
        "tools": "[{\"type\": \"function\"}]", "documents": [{"title": "t"}], "chat_template_kwargs": {"enable_thinking": false},
    }]);
    let made = conversations(text.to_string().as_bytes(), 1 << 18).unwrap().remove(0);
    assert_eq!(made.messages[0].content, "ab");
    assert_eq!(serde_json::Value::from(made.messages[0].fields.clone()), json!({"name": "x"}));
    assert_eq!((made.messages[1].content.as_str(), made.messages[1].train), ("", false));
    assert_eq!(made.messages[1].fields["tool_calls"].to_string(), r#"[{"z":1,"name":"f","arguments":{"b":1,"a":2}}]"#);
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

/// The only conversation of an item.
fn one(item: &serde_json::Value) -> crate::data::Conversation {
    conversations(format!("[{item}]").as_bytes(), 1 << 18).unwrap().remove(0)
}

fn turns(item: &serde_json::Value) -> Vec<(String, String, bool)> {
    let messages = one(item).messages;
    messages.into_iter().map(|message| (message.role.as_str().to_string(), message.content, message.train)).collect()
}

fn turn(role: &str, content: &str, train: bool) -> (String, String, bool) {
    (role.into(), content.into(), train)
}

#[test]
fn loss_and_weight_are_flags_in_every_shape() {
    let chat = |flag: serde_json::Value| {
        let mut answer = json!({"role": "assistant", "content": "a"});
        answer.as_object_mut().unwrap().extend(flag.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "q"}, answer, {"role": "assistant", "content": "b"}]})
    };
    for (flag, train) in [
        (json!({"weight": 0}), false),
        (json!({"weight": 1.0}), true),
        (json!({"loss": false}), false),
        (json!({"loss": 1}), true),
        (json!({"train": false}), false),
        (json!({"train": null, "weight": null}), true),
        (json!({"train": false, "weight": 0}), false),
    ] {
        assert_eq!(turns(&chat(flag))[1].2, train);
    }
    for (flag, wanted) in [
        (json!({"weight": 0.5}), "must be 0 or 1, not 0.5"),
        (json!({"weight": true}), "must be 0 or 1, not true or false"),
        (json!({"trian": false}), "is \"trian\" misspelled? Write \"train\""),
        (json!({"loss_mask": 1}), "\"loss_mask\" is not understood"),
        (json!({"train": true, "weight": 0}), "contradicts \"train\""),
    ] {
        let got = faults(&format!("[{}]", chat(flag)));
        assert!(got.len() == 1 && got[0].contains(wanted), "{got:#?}\n  not  {wanted}");
    }
    for item in [
        json!({"conversations": [{"from": "human", "value": "q"}, {"from": "gpt", "value": "a", "weight": 0}]}),
        json!({"instruction": "q", "output": "a", "loss": false}),
        json!({"question": "q", "answer": "a", "train": false}),
        json!({"text": "a", "weight": 0}),
    ] {
        assert!(!turns(&item).last().unwrap().2, "{item}");
        let text = item.to_string().replace("\"weight\":0", "\"wieght\":0").replace("loss", "lose").replace("train", "trian");
        let got = faults(&format!("[{text}]"));
        assert!(got.len() == 1 && got[0].contains("misspelled"), "{got:#?}");
    }
    let user = json!({"messages": [{"role": "user", "content": "q", "train": true}, {"role": "assistant", "content": "a"}]});
    assert_eq!(one(&user).remarks.made().collect::<Vec<_>>(), [crate::data::parse::remarks::Remark::OthersTrained]);
}

#[test]
fn calls_are_decoded_converted_and_joined() {
    let call = json!({"type": "function", "function": {"name": "f", "arguments": {"a": 41.902_783_512_345, "b": [1, 1e300]}}});
    let text = r#"{"a": 41.902783512345, "b": [1, 1e300]}"#;
    let answer = |more: serde_json::Value| {
        let mut answer = json!({"role": "assistant", "content": null});
        answer.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        json!({"messages": [{"role": "user", "content": "q"}, answer]})
    };
    for more in [
        json!({"tool_calls": [{"type": "function", "function": {"name": "f", "arguments": text}}]}),
        json!({"function_call": {"name": "f", "arguments": text}}),
        json!({"tool_calls": json!([call]).to_string()}),
    ] {
        let made = one(&answer(more));
        assert_eq!(made.messages[1].fields["tool_calls"], json!([call]));
    }
    let from = |from: &str, value: &str| json!({"from": from, "value": value});
    let flat = r#"{"name": "f", "arguments": "{\"a\": 1}"}"#;
    let list = [from("human", "q"), from("function_call", flat), from("function_call", flat), from("tool", "1"), from("gpt", "x")];
    let made = one(&json!({"conversations": list, "functions": [{"name": "f"}], "system_prompt": "s"}));
    let roles: Vec<_> = made.messages.iter().map(|message| message.role.as_str()).collect();
    assert_eq!(roles, ["system", "user", "assistant", "tool", "assistant"]);
    let calls = made.messages[2].fields["tool_calls"].as_array().unwrap();
    assert_eq!((calls.len(), &calls[1]["function"]["arguments"]), (2, &json!({"a": 1})));
    assert_eq!(made.tools, Some(json!([{"type": "function", "function": {"name": "f"}}])));
    for (arguments, wanted) in [
        (json!("city=Rome"), "arguments: is a string, but not valid JSON"),
        (json!(""), "arguments: is empty; write {}"),
        (json!(null), "arguments: is null; write {}"),
        (json!("[1]"), "arguments: is JSON text, but not of an object"),
        (json!(5), "arguments: must be an object"),
    ] {
        let item = answer(json!({"tool_calls": [{"function": {"name": "f", "arguments": arguments}}]}));
        let got = faults(&format!("[{item}]"));
        assert!(got.len() == 1 && got[0].contains("tool_calls[0].function") && got[0].contains(wanted), "{got:#?}\n  not  {wanted}");
    }
    let both = answer(json!({"tool_calls": [call], "function_call": {"name": "f", "arguments": "{}"}}));
    assert!(faults(&format!("[{both}]"))[0].contains("is given beside \"tool_calls\""));
}

#[test]
fn a_system_prompt_beside_the_messages_is_honoured() {
    let chat = |system: Option<&str>| {
        let mut messages = vec![json!({"role": "user", "content": "q"}), json!({"role": "assistant", "content": "a"})];
        messages.splice(0..0, system.map(|system| json!({"role": "system", "content": system})));
        json!({"system": "S", "messages": messages})
    };
    assert_eq!(turns(&chat(None))[0], turn("system", "S", true));
    assert_eq!(turns(&chat(Some("S"))).len(), 3);
    assert!(faults(&format!("[{}]", chat(Some("T"))))[0].contains("[0].system: is a second system prompt"));
    let pair = json!({"question": "q", "answer": "a", "system_prompt": "S"});
    assert_eq!(turns(&pair)[0], turn("system", "S", true));
    let empty =
        json!({"messages": [{"role": "system", "content": ""}, {"role": "tool", "content": ""}, {"role": "assistant", "content": "a"}]});
    assert_eq!(one(&empty).remarks.made().count(), 1);
}

#[test]
fn questions_and_answers_under_their_names() {
    for keys in [["question", "answer"], ["input", "output"], ["prompt", "response"], ["query", "response"], ["instruction", "response"]] {
        assert_eq!(turns(&json!({keys[0]: "q", keys[1]: "a"})), [turn("user", "q", false), turn("assistant", "a", true)]);
    }
    let dolly = json!({"instruction": "q", "context": "c", "response": "a", "category": "x"});
    assert_eq!(turns(&dolly)[0].1, "q\nc");
    let both = json!({"question": "q", "query": "r", "answer": "a"});
    assert!(faults(&format!("[{both}]"))[0].contains("has both \"question\" and \"query\""));
    let text = one(&json!({"text": "plain", "id": 1}));
    assert_eq!((text.kind, text.messages[0].content.as_str()), (crate::data::parse::conversation::SampleKind::PlainText, "plain"));
    let pairs = json!({"prompt": "q", "chosen": [{"role": "assistant", "content": "a"}], "rejected": "b"});
    assert_eq!(turns(&pairs), [turn("user", "q", false), turn("assistant", "a", true)]);
    for (item, wanted) in [
        (json!({"message_tree_id": "x", "parent_id": null, "text": "t", "role": "prompter"}), "OpenAssistant"),
        (json!({"prompt": {"text": "t"}, "replies": []}), "OpenAssistant"),
        (json!({"prompt": "q", "completion": "a", "label": true}), "KTO"),
        (json!({"q": "x", "a": "y"}), "has the keys \"q\", \"a\", which are no known format"),
    ] {
        let got = faults(&format!("[{item},\n{item}]"));
        assert!(got.len() == 1 && got[0].contains(wanted), "{got:#?}");
    }
}

#[test]
fn keys_that_nothing_reads_are_noted_and_json_text_is_decoded() {
    let messages = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": "a"}]);
    let made = one(&json!({"messages": messages, "id": 1, "timestamp": 2, "mood": "x", "rating": null}));
    assert_eq!(made.remarks.ignored, ["mood"]);
    let made = one(&json!({"messages": messages.to_string(), "tools": [json!({"name": "f"}).to_string()]}));
    assert_eq!((made.messages.len(), made.tools), (2, Some(json!([{"name": "f"}]))));
    let wrong = json!([{"role": "user", "content": "q"}, {"role": "assistant", "content": 5}]).to_string();
    let got = faults(&json!([{"messages": wrong}]).to_string());
    assert!(got[0].contains("[0].messages[1].content: must be a string, not a number"), "{got:#?}");
    let big = format!(r#"[{{"messages": {messages}, "x": 184467440737095516160}}]"#);
    assert!(faults(&big)[0].contains("integer of more than 64 bits"));
    let many: String = (0..20_000).map(|i| format!("\"k{i}\": {i}, ")).collect();
    assert_eq!(conversations(format!("[{{{many}\"messages\": {messages}}}]").as_bytes(), 1 << 18).unwrap().len(), 1);
}

#[test]
fn a_file_that_is_no_json_is_shown_by_its_beginning() {
    for (text, words) in [
        ("# Title\n\ntext\n", "begins with \"# Title\""),
        ("Some plain text\n", "begins with \"Some plain text\""),
        ("a: 1\n- b: c\n", "begins with \"a: 1\""),
        ("# c\n# d\nimport json\n", "begins with \"# c\""),
        ("<html>", "is HTML or XML"),
        ("%PDF-1.4\n", "is a PDF document"),
    ] {
        let got = faults(text);
        assert!(got.len() == 1 && got[0].starts_with("line 1, column 1: ") && got[0].contains(words), "{got:#?}");
    }
}

#[test]
fn a_comment_is_one_fault() {
    let got = faults(&format!("[\n# c\n{GOOD}]"));
    assert_eq!(got, ["line 2, column 1: invalid JSON: a comment, which JSON does not have; remove it"]);
    let got = faults(&format!("{GOOD}\n// c: {{}}\n{GOOD}\n"));
    assert!(got.len() == 1 && got[0].starts_with("line 2, column 1: invalid JSON: a comment"), "{got:#?}");
}
