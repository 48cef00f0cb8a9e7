//! Every hook and every answer, through the table of cases; and what a table cannot say.

use policy_rego::Rego;
use portcullis_guest_sdk::log::Level;
use portcullis_guest_sdk::serde_json::{self, Value, json};
use portcullis_guest_sdk::testing;
use portcullis_guest_sdk::{Hook, Module, Problem, SelfTests};

const CASES: &str = include_str!("../cases.json");

fn configured(source: &str) -> Result<Rego, Vec<Problem>> {
    testing::configure::<Rego>(&json!({"modules": {"main.rego": source}}))
}

#[test]
fn every_case_holds() {
    testing::cases::<Rego>(CASES);
    testing::cases::<Rego>(Rego::CASES);
}

#[test]
fn every_hook_has_a_case() {
    let cases: Vec<Value> = serde_json::from_str(CASES).unwrap();
    for hook in Hook::ALL {
        assert!(Rego::HOOKS.contains(&hook), "{} is exported", hook.as_str());
        assert!(cases.iter().any(|case| case["hook"] == hook.as_str()), "{} has a case", hook.as_str());
    }
}

#[test]
fn the_manifest_is_in_order_and_the_sample_is_accepted() {
    let info = testing::manifest::<Rego>();
    let schema: Value = serde_json::from_str(&info.config_schema).unwrap();
    assert_eq!(schema["additionalProperties"], false);
    let sample: Value = serde_json::from_str(&info.sample_config).unwrap();
    let rego = testing::configure::<Rego>(&sample).unwrap_or_else(|problems| panic!("{problems:?}"));
    let input = json!({"request": {
        "tool": {"upstream": "billing", "name": "refund"}, "arguments": {"amount": 250, "customer": "ada"},
    }});
    assert_eq!(rego.ask(Hook::ToolCall, input).unwrap()["approve"]["title"], "Refund 250 to ada");
}

#[test]
fn mistakes_are_told_with_file_line_and_column() {
    for (source, expected) in [
        ("package portcullis.tool_call\nallow if {\n  input.x ==\n}\n", "main.rego, line 4, column 1: "),
        ("package portcullis.tool_call\nallow if x == 1\n", "main.rego, line 2, column 10: "),
        (
            "package portcullis.tool_call\nallow if strat(1)\n",
            "main.rego, line 2, column 15: could not find function strat",
        ),
        ("packge x\n", "main.rego, line 1, column 1: "),
    ] {
        let Err(problems) = configured(source) else { panic!("{source} is accepted") };
        assert_eq!(problems[0].path, "/modules/main.rego");
        assert!(problems[0].message.starts_with(expected), "{}", problems[0].message);
    }
}

#[test]
fn one_decision_leaves_nothing_for_the_next() {
    let rego = configured("package portcullis.tool_call\nseen contains input.args.a\nallow := {\"notes\": {\"seen\": concat(\",\", seen)}}\n")
        .unwrap_or_else(|problems| panic!("{problems:?}"));
    for a in ["x", "y"] {
        let answer = rego.ask(Hook::ToolCall, json!({"request": {"arguments": {"a": a}}})).unwrap();
        assert_eq!(answer["allow"]["notes"][0]["value"], a);
    }
    let rego =
        configured("package portcullis.tool_call\ndeny contains \"x\" if to_number(input.args.a) > 1\n").ok().unwrap();
    let asked = |a: &str| rego.ask(Hook::ToolCall, json!({"request": {"arguments": {"a": a}}})).unwrap();
    assert_eq!(asked("bad")["deny"]["reason"]["code"], "rego.error");
    assert_eq!(asked("1"), "abstain");
    assert_eq!(asked("2")["deny"]["reason"]["message"], "x");
}

#[test]
fn prints_and_warnings_are_lines_of_the_log() {
    let rego = configured(
        "package portcullis.tool_call\nallow if { print(\"tool\", input.tool.name) }\nwarnings contains \"careful\"\n",
    )
    .ok()
    .unwrap();
    testing::logged();
    rego.ask(Hook::ToolCall, json!({"request": {"tool": {"name": "add"}}})).unwrap();
    let lines = testing::logged();
    assert!(lines.iter().any(|(level, line)| *level == Level::Debug && line.contains("add")), "{lines:?}");
    assert!(lines.contains(&(Level::Warn, "careful".to_owned())), "{lines:?}");
}

#[test]
fn what_is_too_much_is_refused() {
    let modules: serde_json::Map<String, Value> =
        (0..65).map(|at| (format!("{at}.rego"), json!("package lib\n"))).collect();
    let large = json!({"main.rego": format!("package lib\n# {}", "x".repeat(600 << 10))});
    for (config, path) in [
        (json!({"modules": modules}), "/modules"),
        (json!({"modules": large}), "/modules"),
        (json!({"modules": {"": "package lib\n"}}), "/modules"),
        (json!({"modules": {"a": "package lib\n"}, "data": {"a": "x".repeat(2 << 20)}}), "/data"),
    ] {
        let Err(problems) = testing::configure::<Rego>(&config) else { panic!("it is accepted") };
        assert_eq!(problems[0].path, path);
    }
}

#[test]
fn the_examples_of_the_readme_are_accepted() {
    let readme = include_str!("../README.md");
    let examples: Vec<&str> = readme.split("```rego\n").skip(1).map(|rest| rest.split("```").next().unwrap()).collect();
    assert!(examples.len() >= 6);
    for source in examples {
        let problems = configured(source).err();
        assert!(problems.is_none(), "{source}\n{problems:?}");
    }
    let first = readme.split("```toml\n").nth(1).and_then(|rest| rest.split("```").next()).unwrap();
    let first: Value = toml::from_str(first).unwrap();
    let config = first.pointer("/policies/0/config").unwrap();
    assert!(testing::configure::<Rego>(config).is_ok());
}
