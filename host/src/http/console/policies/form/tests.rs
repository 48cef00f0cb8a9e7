//! What is filled in comes back as it was, for all schemas that are shipped and some that nobody should ship.

use std::fs;
use std::path::Path;

use proptest::prelude::*;
use serde_json::json;

use super::super::frame;
use super::*;

/// The schemas of the shipped policies, each with configurations that it may or may not admit.
fn shipped() -> Vec<(String, Value, Vec<Value>)> {
    let policies = Path::new(env!("CARGO_MANIFEST_DIR")).join("../policies");
    let read = |path: &Path| -> Value { serde_json::from_slice(&fs::read(path).unwrap()).unwrap() };
    let mut found = Vec::new();
    for entry in fs::read_dir(policies).unwrap() {
        let folder = entry.unwrap().path();
        if !folder.join("schema.json").is_file() {
            continue;
        }
        let mut configs = vec![read(&folder.join("sample.json"))];
        if let Value::Array(cases) = read(&folder.join("cases.json")) {
            configs.extend(
                cases.iter().filter_map(|case| case.get("config")).filter(|config| config.is_object()).cloned(),
            );
        }
        let name = folder.file_name().unwrap().to_string_lossy().into_owned();
        found.push((name, read(&folder.join("schema.json")), configs));
    }
    assert!(found.len() >= 8, "{}", found.len());
    found
}

/// What a browser sends of a form that nobody has touched.
fn sent(pieces: &[Piece]) -> BTreeMap<String, String> {
    let mut fields = BTreeMap::new();
    let mut send = |name: &str, value: &str| {
        let value = value.replace("\r\n", "\n").replace('\n', "\r\n");
        assert_eq!(fields.insert(name.to_owned(), value), None, "{name} is there twice");
    };
    for piece in pieces {
        match piece {
            Piece::Open { .. } | Piece::Close | Piece::Fold { .. } | Piece::Unfold => {}
            Piece::Hidden { name, value } => send(name, value),
            Piece::Field(Field { name, control, .. }) => match control {
                Control::Line { value, .. } => {
                    assert!(!value.contains('\n'), "a line would lose its breaks: {value:?}");
                    send(name, value);
                }
                Control::Area { value, .. } => send(name, value),
                Control::Select(choices) => {
                    let chosen: Vec<_> = choices.iter().filter(|choice| choice.is_chosen).collect();
                    assert_eq!(chosen.len(), 1, "{name}");
                    send(name, &chosen[0].value);
                }
                Control::Checks(choices) => {
                    choices.iter().filter(|choice| choice.is_chosen).for_each(|choice| send(&choice.value, "on"));
                }
                Control::Check { is_checked } => {
                    if *is_checked {
                        send(name, "on");
                    }
                }
            },
        }
    }
    fields
}

fn read(form: &Form<'_>, mut fields: BTreeMap<String, String>) -> (Value, Mistakes) {
    form.read(&mut |name| fields.remove(name).unwrap_or_default())
}

fn assert_round_trip(form: &Form<'_>, config: &Value, what: &str) {
    let (again, mistakes) = read(form, sent(&form.fill(config, &Mistakes::default())));
    assert!(mistakes.is_empty(), "{what}: {mistakes:?}");
    assert_eq!(again, *config, "{what}");
}

#[test]
fn what_shipped_policies_are_configured_with_stays_as_it_is() {
    for (name, schema, configs) in shipped() {
        let form = Form::of(&schema);
        assert!(form.shape.is_some(), "{name} has no form");
        for config in configs {
            assert_round_trip(&form, &config, &name);
        }
    }
}

#[test]
fn a_form_has_fields_for_what_it_can_and_json_for_the_rest() {
    let (_, schema, configs) = shipped().into_iter().find(|(name, ..)| name == "rate-limit").unwrap();
    let fields = sent(&Form::of(&schema).fill(&configs[0], &Mistakes::default()));
    let value = |name: &str| fields.get(name).map(String::as_str);
    assert_eq!(value("config/rules:rows"), Some("6"), "three that are there, and three to be filled in");
    assert_eq!(value("config/rules/1/limit:number"), Some("100"));
    assert_eq!(value("config/rules/1/tools:lines"), Some("*/search*"));
    assert_eq!(value("config/rules/1/per:is0"), Some("on"), "caller");
    assert_eq!(value("config/rules/2/per:none"), Some("on"), "a list with nothing in it is not the same as none");
    assert_eq!(value("config/rules/5/limit:number"), Some(""));
    let (_, schema, configs) = shipped().into_iter().find(|(name, ..)| name == "cel").unwrap();
    let fields = sent(&Form::of(&schema).fill(&configs[0], &Mistakes::default()));
    assert!(fields["config/rules/0/hook:json"].contains("list-tools"), "one or several: beyond a field");
}

#[test]
fn one_row_to_be_filled_in_stands_open_and_others_are_folded() {
    let (_, schema, configs) = shipped().into_iter().find(|(name, ..)| name == "rate-limit").unwrap();
    let form = Form::of(&schema);
    let pieces = form.fill(&configs[0], &Mistakes::default());
    let at = |label: &str| {
        let is_it = |piece: &Piece| matches!(piece, Piece::Open { label: found, .. } if found == label);
        pieces.iter().position(is_it).unwrap_or_else(|| panic!("no {label}"))
    };
    let is_fold = |piece: &Piece| matches!(piece, Piece::Fold { label } if label == "Room for more rules");
    let fold = pieces.iter().position(is_fold).unwrap();
    assert!(at("rules 3") < at("rules 4, new") && at("rules 4, new") < fold && fold < at("rules 5, new"));
    let count = |is: fn(&Piece) -> bool| pieces.iter().filter(|piece| is(piece)).count();
    let folds = count(|piece| matches!(piece, Piece::Fold { .. }));
    assert_eq!(folds, count(|piece| matches!(piece, Piece::Unfold)));
    let shown = form.show(&configs[0]);
    assert!(!shown.iter().any(|piece| matches!(piece, Piece::Fold { .. } | Piece::Unfold)), "nothing to be filled in");
}

#[test]
fn what_counts_most_stands_before_the_configuration() {
    let (frame, schema) = (frame::schema(), json!({ "type": "object", "properties": { "a": { "type": "string" } } }));
    let form = Form::around(&frame, &frame::FIRST, (frame::CONFIG, "Configuration"), &schema);
    let names: Vec<&str> = form.shape.as_ref().unwrap().members.iter().map(|member| member.name).collect();
    assert_eq!(names[..4], ["mode", "priority", "match", "config"]);
    assert_eq!(names.len(), 8);
    let definition = json!({ "mode": "shadow", "priority": 3, "config": { "a": "b" }, "advisory": true });
    assert_round_trip(&form, &definition, "a definition");
}

#[test]
fn a_row_is_added_changed_and_taken_away() {
    let (_, schema, configs) = shipped().into_iter().find(|(name, ..)| name == "rate-limit").unwrap();
    let form = Form::of(&schema);
    let mut fields = sent(&form.fill(&configs[0], &Mistakes::default()));
    fields.insert("config/rules/0:gone".to_owned(), "on".to_owned());
    fields.insert("config/rules/1/cost:number".to_owned(), "7".to_owned());
    fields.insert("config/rules/4/limit:number".to_owned(), "3".to_owned());
    fields.insert("config/rules/4/period:text".to_owned(), "1h".to_owned());
    let (config, mistakes) = read(&form, fields);
    assert!(mistakes.is_empty(), "{mistakes:?}");
    let rules = config["rules"].as_array().unwrap();
    assert_eq!((rules.len(), &rules[0]["cost"], &rules[2]), (3, &json!(7), &json!({ "limit": 3, "period": "1h" })));
}

#[test]
fn what_cannot_be_read_is_told_at_its_field_and_shown_as_it_was_typed() {
    let (_, schema, _) = shipped().into_iter().find(|(name, ..)| name == "rate-limit").unwrap();
    let form = Form::of(&schema);
    let mut fields = sent(&form.fill(&json!({}), &Mistakes::default()));
    fields.insert("config/rules/1/limit:number".to_owned(), "many".to_owned());
    let (config, mut mistakes) = read(&form, fields);
    assert_eq!(config, json!({ "rules": [{}] }), "its place stays");
    mistakes.add("/rules/0/period", "what is wanted is not there");
    let pieces = form.fill(&config, &mistakes);
    let field = |name: &str| {
        pieces.iter().find_map(|piece| match piece {
            Piece::Field(field) if field.name == name => Some(field),
            _ => None,
        })
    };
    let limit = field("config/rules/0/limit:number").expect("the list still has its fields");
    assert_eq!(limit.control, Control::Line { value: "many".to_owned(), is_number: true });
    assert_eq!(limit.mistake.as_deref(), Some("this is not a number"));
    assert!(field("config/rules/0/period:text").unwrap().mistake.is_some());
    let form = Form::of(&Value::Null);
    let fields = BTreeMap::from([("config:json".to_owned(), "{ nothing".to_owned())]);
    let (config, mistakes) = read(&form, fields);
    let shown = sent(&form.fill(&config, &mistakes));
    assert_eq!(shown["config:json"], "{ nothing");
    assert_eq!(mistakes.all().len(), 1);
}

#[test]
fn schemas_of_strangers_make_no_endless_form() {
    let endless = json!({
        "type": "object",
        "properties": { "a": { "$ref": "#" }, "b": { "type": "array", "items": { "$ref": "#" } }, "c": { "$ref": "#/properties/c" } }
    });
    let pieces = Form::of(&endless).fill(&json!({}), &Mistakes::default());
    assert!(pieces.len() <= MAX_PIECES, "{}", pieces.len());
    assert_round_trip(&Form::of(&endless), &json!({ "a": { "b": [{ "c": 1 }] } }), "a reference to itself");
    let many: serde_json::Map<String, Value> =
        (0..5000).map(|at| (format!("m{at}"), json!({ "type": "string" }))).collect();
    let wide = json!({ "type": "object", "properties": many });
    assert_eq!(Form::of(&wide).fill(&json!({ "m1": "a" }), &Mistakes::default()).len(), 1, "one text");
    assert_round_trip(&Form::of(&wide), &json!({ "m1": "a" }), "one text");
}

#[test]
fn a_form_with_too_many_fields_is_not_read_whole() {
    let many: serde_json::Map<String, Value> =
        (0..300).map(|at| (format!("m{at}"), json!({ "type": "string" }))).collect();
    let rows = json!({ "type": "array", "items": { "type": "object", "properties": many } });
    let schema = json!({ "type": "object", "properties": { "rows": rows } });
    let mut asked = 0;
    let (_, mistakes) = Form::of(&schema).read(&mut |name| {
        asked += 1;
        if name.ends_with("rows") { MAX_ROWS.to_string() } else { "x".repeat(usize::from(name.ends_with("/m0:text"))) }
    });
    assert!(!mistakes.is_empty() && asked < 200_000, "{asked}");
}

/// Anything at all, by the names that schemas know and others.
fn anything() -> impl Strategy<Value = Value> {
    let names = prop::sample::select(vec![
        "rules",
        "tools",
        "when",
        "name",
        "action",
        "otherwise",
        "limit",
        "per",
        "period",
        "message",
        "arguments",
        "at",
        "one_of",
        "except",
        "principals",
        "kinds",
        "words",
        "structured",
        "modules",
        "data",
        "pins",
        "notes",
        "remember",
        "hook",
        "grants",
        "max_age",
        "a/b",
        "~",
        "",
    ]);
    let texts = prop_oneof![
        "[ -~]{0,12}",
        prop::sample::select(vec![
            "allow",
            "hide",
            "caller",
            "tool",
            "jwt",
            "email",
            "two\nlines",
            "\r",
            " spaced ",
            "\n",
            "ö"
        ])
        .prop_map(ToOwned::to_owned),
    ];
    let leaf = prop_oneof![
        Just(Value::Null),
        any::<bool>().prop_map(Value::from),
        any::<i32>().prop_map(Value::from),
        any::<i16>().prop_map(|eighths| Value::from(f64::from(eighths) / 8.0)),
        texts.prop_map(Value::from),
    ];
    leaf.prop_recursive(5, 64, 6, move |inner| {
        prop_oneof![
            prop::collection::vec(inner.clone(), 0..5).prop_map(Value::from),
            prop::collection::btree_map(names.clone().prop_map(ToOwned::to_owned), inner, 0..8)
                .prop_map(|members: BTreeMap<String, Value>| members.into_iter().collect()),
        ]
    })
}

proptest! {
    #[test]
    fn whatever_is_configured_comes_back_as_it_was(config in anything()) {
        let config = json!({ "rules": config, "tools": config, "data": config, "when": config });
        for (name, schema, _) in shipped() {
            assert_round_trip(&Form::of(&schema), &config, &name);
        }
    }
}
