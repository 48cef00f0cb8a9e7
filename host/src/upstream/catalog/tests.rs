//! Views of several upstreams: names, URIs, and the way back.

use proptest::prelude::*;
use serde_json::value::RawValue;

use super::*;
use crate::mcp::json::{quote, raw};
use crate::mcp::revision::{Capabilities, Era};

fn name(upstream: &str) -> UpstreamName {
    UpstreamName::parse(upstream).unwrap()
}

fn json(text: String) -> Box<RawValue> {
    raw(text)
}

/// An upstream's shelf, filled item by item.
fn shelf(upstream: &str) -> Shelf {
    let capabilities = Capabilities::read(Some(&json(r#"{"tools":{},"prompts":{},"resources":{}}"#.to_owned())));
    let about = About {
        revision: "2026-07-28".to_owned(),
        era: Era::Modern,
        capabilities,
        server_info: None,
        instructions: None,
    };
    let offer = Some(Arc::new(Offer::default()));
    Shelf { upstream: name(upstream), prefix: true, about: Some(Arc::new(about)), offer, stale: false, connect: None }
}

impl Shelf {
    fn bare(mut self) -> Self {
        self.prefix = false;
        self
    }

    fn unknown(mut self) -> Self {
        (self.about, self.offer) = (None, None);
        self
    }

    fn with(mut self, add: impl Fn(&UpstreamName, &mut Offer)) -> Self {
        add(&self.upstream, Arc::get_mut(self.offer.as_mut().unwrap()).unwrap());
        self
    }

    fn tools(self, names: &[&str]) -> Self {
        names.iter().fold(self, |shelf, name| shelf.tool(&format!(r#"{{"name":{}}}"#, quote(name))))
    }

    fn tool(self, definition: &str) -> Self {
        let definition = json(definition.to_owned());
        self.with(|upstream, offer| {
            offer.tools.push(Arc::new(ToolDefinition::parse(upstream, &definition).unwrap()));
        })
    }

    fn prompts(self, names: &[&str]) -> Self {
        self.with(|upstream, offer| {
            let prompt = |name: &&str| Definition::prompt(upstream, &json(format!(r#"{{"name":{}}}"#, quote(name))));
            offer.prompts.extend(names.iter().map(|name| Arc::new(prompt(name).unwrap())));
        })
    }

    fn resources(self, uris: &[&str]) -> Self {
        self.with(|upstream, offer| {
            let resource = |uri: &&str| Definition::resource(upstream, &json(format!(r#"{{"uri":{}}}"#, quote(uri))));
            offer.resources.extend(uris.iter().map(|uri| Arc::new(resource(uri).unwrap())));
        })
    }

    /// Each skill is the URI of its `SKILL.md` and those of its other files.
    fn skills(self, skills: &[(&str, &[&str])]) -> Self {
        self.with(|upstream, offer| {
            let skill = |(uri, files): &(&str, &[&str])| {
                let file = |uri: &&str| format!(r#"{{"uri":{},"digest":"d"}}"#, quote(uri));
                let files: Vec<String> = files.iter().map(file).collect();
                let text = format!(r#"{{"uri":{}, "resources":[{}]}}"#, quote(uri), files.join(","));
                SkillDefinition::parse(upstream, &json(text))
            };
            offer.skills.extend(skills.iter().map(|listed| Arc::new(skill(listed).unwrap())));
        })
    }

    fn templates(self, templates: &[&str]) -> Self {
        self.with(|upstream, offer| {
            let template = |template: &&str| {
                TemplateDefinition::parse(upstream, &json(format!(r#"{{"uriTemplate":{}}}"#, quote(template))))
            };
            offer.templates.extend(templates.iter().map(|text| Arc::new(template(text).unwrap())));
        })
    }
}

fn catalog(shelves: &[Shelf]) -> Catalog {
    Catalog::build(shelves, |_| PinStanding::Pinned)
}

fn merged(shelves: &[Shelf]) -> Arc<View> {
    catalog(shelves).view(None).unwrap().clone()
}

fn tools(view: &View) -> Vec<String> {
    view.tools_after(None).map(|tool| format!("{} = {}/{}", tool.exposed, tool.upstream, tool.name)).collect()
}

fn resources(view: &View) -> Vec<String> {
    let line = |found: &Arc<Resource>| format!("{} = {}/{}", found.exposed, found.upstream, found.uri);
    view.resources_after(None).map(line).collect()
}

fn located(view: &View, uri: &str) -> Vec<String> {
    view.locate(uri).iter().map(|place| format!("{}/{}", place.upstream, place.uri)).collect()
}

#[test]
fn tools_and_prompts_of_two_upstreams_never_collide() {
    let names = ["add", "notes__add", "down__later", "plain__own"];
    let shelves = [
        shelf("plain").bare().tools(&names).prompts(&names),
        shelf("notes").tools(&["add", "list"]).prompts(&["add"]),
        shelf("down").unknown(),
    ];
    let view = merged(&shelves);
    assert_eq!(
        tools(&view),
        [
            "add = plain/add",
            "notes__add = notes/add",
            "notes__list = notes/list",
            "plain__down__later = plain/down__later",
            "plain__notes__add = plain/notes__add",
            "plain__plain__own = plain/plain__own",
        ]
    );
    let prompts: Vec<&str> = view.prompts_after(Some("add")).map(|prompt| prompt.exposed.as_str()).collect();
    assert_eq!(prompts, ["notes__add", "plain__down__later", "plain__notes__add", "plain__plain__own"]);
    assert_eq!(view.prompt("plain__notes__add").unwrap().name, "notes__add");
    assert_eq!(view.prompt("notes__add").unwrap().listed.get(), r#"{"name":"notes__add"}"#);
    assert!(view.tool("list").is_none() && view.prompt("notes__list").is_none());

    let after: Vec<_> = view.tools_after(Some("notes__list")).map(|tool| tool.exposed.as_str()).collect();
    assert_eq!(after, ["plain__down__later", "plain__notes__add", "plain__plain__own"]);
    assert_eq!(view.tools_after(Some("o")).len(), 3, "a name that is gone has a place still");
    assert_eq!(view.missing(), [name("down")]);
    assert_eq!(view.upstreams().map(UpstreamName::as_str).collect::<Vec<_>>(), ["notes", "plain"]);
}

#[test]
fn alone_an_upstream_has_its_own_names() {
    let shelves = [
        shelf("a").tools(&["add", "a__add"]).resources(&["x://1"]),
        shelf("b").tools(&["add", &"x".repeat(65)]).resources(&["x://1"]).templates(&["x://{id}"]),
        shelf("down").unknown(),
    ];
    let catalog = catalog(&shelves);
    let alone = |upstream: &str| catalog.view(Some(&name(upstream)));
    assert_eq!(tools(alone("a").unwrap()), ["a__add = a/a__add", "add = a/add"]);
    let long = &alone("b").unwrap().tools_after(Some("add")).next().unwrap().exposed;
    assert_eq!(long.len(), naming::MAX_NAME_LEN);
    assert_eq!(resources(alone("b").unwrap()), ["x://1 = b/x://1"]);
    assert_eq!(located(alone("b").unwrap(), "x://7"), ["b/x://7"]);
    assert_eq!(located(alone("a").unwrap(), "y://7"), ["a/y://7"], "the only one with resources");
    assert_eq!(alone("down").unwrap().missing(), [name("down")]);
    assert!(located(alone("down").unwrap(), "x://1").is_empty());
    assert!(alone("c").is_none());

    let (together, alone) = (catalog.view(None).unwrap().tool("a__add").unwrap(), alone("a").unwrap());
    let alone = alone.tool("add").unwrap();
    assert!(std::ptr::eq::<ToolDefinition>(&***together, &***alone), "views share it");
}

/// The same shelf with the tool by which its upstream is connected.
fn connecting(shelf: Shelf, is_listed: bool) -> Shelf {
    let definition = Arc::new(ToolDefinition::connect(&shelf.upstream));
    Shelf { connect: Some(ConnectTool { definition, is_listed }), ..shelf }
}

#[test]
fn the_tool_for_connecting_stands_in_the_list_or_is_known_by_its_name() {
    let shelves = [
        connecting(shelf("closed").unknown(), true),
        connecting(shelf("bare").bare().unknown(), true),
        connecting(shelf("open").tools(&["add"]), false),
        shelf("plain").tools(&["add"]),
        shelf("down").unknown(),
    ];
    let catalog = catalog(&shelves);
    let view = catalog.view(None).unwrap();
    let expected = ["bare__connect = bare/connect", "closed__connect = closed/connect", "open__add = open/add"];
    assert_eq!(tools(view)[..3], expected);
    assert_eq!(view.missing(), [name("down")], "of the others it is known what there is to do");
    let known = view.tool("open__connect").unwrap();
    assert!(known.is_connect && view.position(known).is_none());
    assert!(view.tool("plain__connect").is_none());
    assert_eq!(catalog.personal(), [name("bare"), name("closed"), name("open")]);
    assert_eq!(catalog.len(), 2, "it is none of the upstreams' tools");
    assert_eq!(tools(catalog.view(Some(&name("closed"))).unwrap()), ["connect = closed/connect"]);
}

#[test]
fn a_real_tool_of_that_name_comes_first() {
    let closed = || connecting(shelf("mail").tools(&["connect"]), false);
    let view = merged(&[closed()]);
    assert!(!view.tool("mail__connect").unwrap().is_connect);
    let bare = merged(&[connecting(shelf("mail").bare().tools(&["mail__connect", "connect"]), false)]);
    assert_eq!(tools(&bare), ["connect = mail/connect", "mail__mail__connect = mail/mail__connect"]);
    assert!(bare.tool("mail__connect").unwrap().is_connect, "a bare name is never one with a prefix");
}

#[test]
fn the_tool_for_connecting_is_always_the_same_and_always_agreed_to() {
    let (one, other) = (ToolDefinition::connect(&name("mail")), ToolDefinition::connect(&name("mail")));
    assert_eq!(one.digest, other.digest);
    assert_ne!(one.digest, ToolDefinition::connect(&name("notes")).digest);
    let hints = ToolHints { read_only: true, destructive: false, idempotent: true, open_world: true };
    assert_eq!((one.name.as_str(), one.hints), ("connect", hints));
    assert!(one.description.as_ref().unwrap().starts_with("Connect mail to use its tools."));
    let closed = connecting(shelf("mail").unknown(), true);
    let catalog = Catalog::build(&[closed], |_| PinStanding::Changed);
    assert_eq!(catalog.view(None).unwrap().tool("mail__connect").unwrap().standing, PinStanding::Pinned);
}

#[test]
fn a_catalog_with_another_shelf_differs_in_that_alone() {
    let common = catalog(&[connecting(shelf("mail").unknown(), true), shelf("notes").tools(&["add"])]);
    let own = connecting(shelf("mail").tools(&["send"]).prompts(&["reply"]), false);
    let of_ann = common.with(vec![own]);
    let view = of_ann.view(None).unwrap();
    assert_eq!(tools(view), ["mail__send = mail/send", "notes__add = notes/add"]);
    assert!(view.tool("mail__connect").is_some() && view.prompt("mail__reply").is_some());
    assert_eq!(tools(common.view(None).unwrap()), ["mail__connect = mail/connect", "notes__add = notes/add"]);
    let alone = |catalog: &Catalog| catalog.view(Some(&name("notes"))).unwrap().clone();
    assert!(Arc::ptr_eq(&alone(&common), &alone(&of_ann)));
}

#[test]
fn a_name_that_an_upstream_forges_gets_another() {
    let long = "x".repeat(100);
    let forged = tools(&merged(&[shelf("notes").tools(&[&long])]));
    let forged = forged[0].split(' ').next().unwrap().strip_prefix("notes__").unwrap().to_owned();
    for order in [[long.as_str(), &forged], [&forged, long.as_str()]] {
        let view = merged(&[shelf("notes").tools(&order)]);
        let names: Vec<_> = view.tools_after(None).map(|tool| (tool.name.as_str(), tool.exposed.len())).collect();
        assert_eq!(names.len(), 2);
        assert!(view.tool(&format!("notes__{forged}")).unwrap().name == forged, "whatever the order");
        assert!(names.contains(&(long.as_str(), naming::MAX_NAME_LEN)));
    }
}

#[test]
fn what_is_down_stays_listed() {
    let mut down = shelf("a").tools(&["add"]);
    down.stale = true;
    let mut never_up = shelf("c").unknown();
    never_up.stale = true;
    let view = merged(&[down, shelf("b"), never_up]);
    assert_eq!(tools(&view), ["a__add = a/add"]);
    assert_eq!(view.stale(), [name("a")]);
    assert_eq!(view.missing(), [name("c")]);
    assert!(view.about(&name("a")).is_some() && view.about(&name("c")).is_none());
}

#[test]
fn the_first_of_two_upstreams_keeps_a_uri() {
    let shelves = [
        shelf("b").resources(&["ui://app", "https://example.com/", "x://b"]).templates(&["x://t/{id}"]),
        shelf("a").resources(&["ui://app", "https://example.com/"]).templates(&["x://t/{id}", "a://{+x}"]),
        shelf("c").resources(&["ui://app", "ui://b/app"]),
    ];
    let view = merged(&shelves);
    assert_eq!(
        resources(&view),
        [
            "https://example.com/ = a/https://example.com/",
            "portcullis:b:https://example.com/ = b/https://example.com/",
            "ui://app = a/ui://app",
            "ui://b.1/app = b/ui://app",
            "ui://b/app = c/ui://b/app",
            "ui://c/app = c/ui://app",
            "x://b = b/x://b",
        ]
    );
    let rewritten = view.resources_after(Some("ui://app")).next().unwrap();
    assert_eq!(rewritten.listed.get(), r#"{"uri":"ui://b.1/app"}"#);
    let templates: Vec<_> = view.templates_after(None).map(|template| template.exposed.as_str()).collect();
    assert_eq!(templates, ["a://{+x}", "x://b/t/{id}", "x://t/{id}"]);
    let template = view.template("x://b/t/{id}").unwrap();
    assert_eq!((template.upstream.as_str(), template.uri_template.as_str()), ("b", "x://t/{id}"));

    for resource in view.resources_after(None) {
        assert_eq!(located(&view, &resource.exposed), [format!("{}/{}", resource.upstream, resource.uri)]);
    }
    assert_eq!(located(&view, "x://t/1"), ["a/x://t/1"]);
    assert_eq!(located(&view, "x://b/t/1"), ["b/x://t/1"]);
    assert_eq!(located(&view, "a://any/thing"), ["a/a://any/thing"]);
    assert!(located(&view, "y://nobody").is_empty(), "three upstreams have resources");
}

#[test]
fn a_uri_is_looked_for_where_it_most_likely_is() {
    let view = merged(&[
        shelf("a").resources(&["x://docs/1"]).templates(&["{+any}", "x://{+any}"]),
        shelf("b").templates(&["x://docs/{id}"]),
        shelf("c").templates(&["x://docs/{id}/raw", "not { a template"]),
    ]);
    assert_eq!(located(&view, "x://docs/1"), ["a/x://docs/1", "b/x://docs/1"]);
    assert_eq!(located(&view, "x://docs/2"), ["b/x://docs/2", "a/x://docs/2"]);
    assert_eq!(located(&view, "x://docs/2/raw"), ["c/x://docs/2/raw", "a/x://docs/2/raw"]);
    assert_eq!(located(&view, "y://"), ["a/y://"]);
    assert_eq!(view.templates_after(None).len(), 5, "what is no template is listed all the same");
}

#[test]
fn a_directory_is_where_what_is_below_it_is() {
    let view = merged(&[
        shelf("a").resources(&["skill://pdf/SKILL.md", "skill://pdf/forms/A.md", "skill://pdfx/SKILL.md"]),
        shelf("b").resources(&["skill://pdf/SKILL.md", "skill://own/SKILL.md", "skill://pdf/other.md"]),
    ]);
    assert_eq!(located(&view, "skill://pdf/forms"), ["a/skill://pdf/forms"]);
    assert_eq!(located(&view, "skill://pdf/forms/"), ["a/skill://pdf/forms/"]);
    assert_eq!(located(&view, "skill://own"), ["b/skill://own"]);
    assert_eq!(located(&view, "skill://pdf"), ["a/skill://pdf", "b/skill://pdf"]);
    assert_eq!(located(&view, "skill://b/pdf"), ["b/skill://pdf"], "under the URI that it is listed with");
    for nowhere in ["skill://pd", "skill://pdf/forms/A.md/x", "skill://pdf/for"] {
        assert!(located(&view, nowhere).is_empty(), "{nowhere}");
    }
}

#[test]
fn a_tools_interface_leads_to_its_own_upstream() {
    let tool = r#"{"name":"show","_meta":{"ui":{"resourceUri":"ui://app"}}}"#;
    let listed = |view: &View, name: &str| view.tool(name).unwrap().listed.get().to_owned();
    // Nobody lists the resource, and still it is found.
    let view = merged(&[shelf("a").tool(tool), shelf("b").tool(tool)]);
    assert!(listed(&view, "a__show").contains(r#""resourceUri":"ui://app""#));
    assert!(listed(&view, "b__show").contains(r#""resourceUri":"ui://b/app""#));
    assert_eq!(located(&view, "ui://app"), ["a/ui://app"]);
    assert_eq!(located(&view, "ui://b/app"), ["b/ui://app"]);
    assert_eq!(view.resources_after(None).len(), 0);
    // One lists it.
    let view = merged(&[shelf("a").resources(&["ui://app"]), shelf("b").tool(tool).resources(&["ui://app"])]);
    assert!(listed(&view, "b__show").contains(r#""resourceUri":"ui://b/app""#));
    assert_eq!(located(&view, "ui://b/app"), ["b/ui://app"]);
    // Nobody else has it.
    let view = merged(&[shelf("b").tool(tool)]);
    assert!(listed(&view, "b__show").contains(r#""resourceUri":"ui://app""#));
}

/// The skills that a caller who may use these upstreams has.
fn skills(view: &View, permitted: &[&str]) -> Vec<String> {
    let may = |upstream: &UpstreamName| permitted.contains(&upstream.as_str());
    let shown = view.skills_after(None).filter(|skill| skill.is_shown(may));
    shown.map(|skill| format!("{}/{}", skill.upstream, skill.uri)).collect()
}

#[test]
fn skills_are_listed_as_they_came_in_the_order_of_their_uris() {
    let view = merged(&[
        shelf("b").skills(&[("skill://pdf/SKILL.md", &["skill://pdf/SKILL.md", "skill://pdf/a.md"])]),
        shelf("a").skills(&[("skill://tools/git/SKILL.md", &[]), ("https://h/s/SKILL.md", &[])]),
    ]);
    let all = ["a/https://h/s/SKILL.md", "b/skill://pdf/SKILL.md", "a/skill://tools/git/SKILL.md"];
    assert_eq!(skills(&view, &["a", "b"]), all);
    assert_eq!(skills(&view, &["b"]), all[1..2]);
    assert_eq!(view.skills_after(Some("skill://pdf/SKILL.md")).len(), 1);
    assert_eq!(
        view.skills_at("skill://pdf/SKILL.md")[0].listed.get(),
        r#"{"uri":"skill://pdf/SKILL.md", "resources":[{"uri":"skill://pdf/SKILL.md","digest":"d"},{"uri":"skill://pdf/a.md","digest":"d"}]}"#
    );
    assert!(view.skills_at("skill://pdf/SKILL").is_empty() && view.skills_at("").is_empty());
}

#[test]
fn a_skills_files_lead_to_its_upstream() {
    let view = merged(&[
        // Would have everything, if nobody else had it.
        shelf("a").templates(&["skill://{+path}"]),
        shelf("b").skills(&[("skill://pdf/SKILL.md", &["skill://pdf/a.md"]), ("skill://tools/git/SKILL.md", &[])]),
    ]);
    for uri in ["skill://pdf/SKILL.md", "skill://pdf/a.md", "skill://pdf/not/listed.md", "skill://pdf", "skill://pdf/"]
    {
        assert_eq!(located(&view, uri), [format!("b/{uri}"), format!("a/{uri}")], "{uri}");
    }
    for uri in ["skill://pdf2/a.md", "skill://other"] {
        assert_eq!(located(&view, uri), [format!("a/{uri}")], "{uri}");
    }
    // A directory of skills.
    let view = merged(&[shelf("a"), shelf("b").skills(&[("skill://tools/git/SKILL.md", &[])])]);
    assert_eq!(located(&view, "skill://tools"), ["b/skill://tools"]);
    assert!(located(&view, "skill://tool").is_empty());
    // A skill that would have a whole scheme has its own file and nothing else.
    let view = merged(&[shelf("a").skills(&[("file:///SKILL.md", &["file:///x"])]), shelf("b")]);
    assert_eq!(located(&view, "file:///SKILL.md"), ["a/file:///SKILL.md"]);
    assert!(located(&view, "file:///x").is_empty());
}

#[test]
fn of_two_upstreams_with_a_skills_directory_the_first_that_a_caller_may_use_has_it() {
    let view = merged(&[
        shelf("c").skills(&[("skill://pdf/SKILL.md", &[])]),
        shelf("b").skills(&[("skill://pdf/SKILL.md", &["skill://pdf/b.md"]), ("skill://mine/SKILL.md", &[])]),
        shelf("a").skills(&[("skill://pdf/SKILL.md", &["skill://pdf/a.md"])]),
    ]);
    assert_eq!(skills(&view, &["a", "b", "c"]), ["b/skill://mine/SKILL.md", "a/skill://pdf/SKILL.md"]);
    assert_eq!(skills(&view, &["b", "c"]), ["b/skill://mine/SKILL.md", "b/skill://pdf/SKILL.md"]);
    assert_eq!(skills(&view, &["c"]), ["c/skill://pdf/SKILL.md"]);
    // Whoever has the skill has its files, those that only another one names included.
    for uri in ["skill://pdf/SKILL.md", "skill://pdf/b.md"] {
        assert_eq!(located(&view, uri), ["a", "b", "c"].map(|upstream| format!("{upstream}/{uri}")));
    }

    // One within the other.
    let outer = ("skill://x/SKILL.md", &["skill://x/y/z.md"][..]);
    let inner = ("skill://x/y/SKILL.md", &[][..]);
    for (first, second) in [(outer, inner), (inner, outer)] {
        let view = merged(&[shelf("a").skills(&[first]), shelf("b").skills(&[second])]);
        assert_eq!(skills(&view, &["a", "b"]), [format!("a/{}", first.0)]);
        assert_eq!(skills(&view, &["b"]), [format!("b/{}", second.0)]);
        assert_eq!(view.locate("skill://x/y/z.md")[0].upstream, name("a"));
    }
    // Of one upstream they are none of our business.
    let view = merged(&[shelf("a").skills(&[outer, inner]), shelf("b")]);
    assert_eq!(skills(&view, &["a", "b"]).len(), 2);
}

#[test]
fn a_skill_with_a_file_that_is_anothers_resource_is_not_shown_with_it() {
    let skilled = |upstream| shelf(upstream).skills(&[("skill://pdf/SKILL.md", &["skill://pdf/a.md"])]);
    let view = merged(&[shelf("a").resources(&["skill://pdf/a.md"]), skilled("b")]);
    assert_eq!(skills(&view, &["a", "b"]), [""; 0]);
    assert_eq!(skills(&view, &["b"]), ["b/skill://pdf/SKILL.md"]);
    assert_eq!(located(&view, "skill://pdf/a.md"), ["a/skill://pdf/a.md", "b/skill://pdf/a.md"]);
    // The first one keeps its files, whether or not it lists them as resources.
    let view = merged(&[skilled("a"), shelf("b").resources(&["skill://pdf/a.md"])]);
    assert_eq!(skills(&view, &["a", "b"]), ["a/skill://pdf/SKILL.md"]);
    assert_eq!(located(&view, "skill://pdf/a.md"), ["a/skill://pdf/a.md"]);
    assert_eq!(resources(&view), ["skill://b/pdf/a.md = b/skill://pdf/a.md"]);
}

#[test]
fn a_skill_that_no_list_has_is_looked_for_where_there_are_skills() {
    let capabilities = r#"{"resources":{},"extensions":{"io.modelcontextprotocol/skills":{}}}"#;
    let skilled = |upstream| {
        let mut shelf = shelf(upstream);
        let about = Arc::get_mut(shelf.about.as_mut().unwrap()).unwrap();
        about.capabilities = Capabilities::read(Some(&json(capabilities.to_owned())));
        shelf
    };
    let uri = "skill://pdf/SKILL.md";
    let found = |shelves: &[Shelf]| -> Vec<String> {
        let found = merged(shelves).locate_skill(uri);
        found.iter().map(|place| format!("{}/{}", place.upstream, place.uri)).collect()
    };
    let b = [format!("b/{uri}")];
    assert_eq!(found(&[shelf("a"), skilled("b")]), b);
    assert_eq!(found(&[shelf("a"), shelf("b")]), [""; 0]);
    assert_eq!(found(&[skilled("a"), skilled("b")]), [""; 0]);
    assert_eq!(found(&[skilled("a"), skilled("b").resources(&[uri])]), b);
    assert_eq!(found(&[shelf("a").templates(&["skill://{+x}"]), skilled("b").templates(&["skill://pdf/{x}"])]), b);
    // Under a URI that it does not have itself, an upstream's skill is not known.
    assert_eq!(
        found(&[skilled("pdf").resources(&["skill://SKILL.md"]), shelf("a").resources(&["skill://SKILL.md"])]),
        [""; 0]
    );
}

#[test]
fn an_offer_is_another_when_anything_in_it_is() {
    let digest = |shelf: Shelf| shelf.offer.unwrap().digest();
    let same = || shelf("a").tools(&["x", "y"]).prompts(&["p"]).resources(&["r:1"]).templates(&["t:{x}"]);
    assert_eq!(digest(same()), digest(same()));
    for other in [
        shelf("a").tools(&["y", "x"]).prompts(&["p"]).resources(&["r:1"]).templates(&["t:{x}"]),
        shelf("a").tools(&["x", "y"]).prompts(&["q"]).resources(&["r:1"]).templates(&["t:{x}"]),
        shelf("a").tools(&["x", "y"]).prompts(&["p"]).resources(&[]).templates(&["t:{x}"]),
        shelf("a").tools(&["x", "y"]).prompts(&["p"]).resources(&["r:1"]).templates(&["t:{y}"]),
        shelf("a").tools(&["x"]).tool(r#"{"name":"y","title":"Y"}"#).prompts(&["p"]).resources(&["r:1"]),
        same().skills(&[("skill://a/SKILL.md", &[])]),
    ] {
        assert_ne!(digest(other), digest(same()));
    }
}

#[test]
fn many_templates_are_looked_through_in_bounded_time() {
    let hostile: Vec<String> = (0..2_000).map(|at| format!("x:{}{at}", "{+a}-".repeat(60))).collect();
    let hostile: Vec<&str> = hostile.iter().map(String::as_str).collect();
    let view = merged(&[shelf("a").templates(&hostile), shelf("b")]);
    let begun = std::time::Instant::now();
    assert!(located(&view, &format!("x:{}?", "-".repeat(8_000))).is_empty());
    let uri = format!("x:{}x1", "-".repeat(8_000));
    assert!(view.locate(&uri).len() <= 1);
    assert!(begun.elapsed().as_secs() < 5, "{:?}", begun.elapsed());
}

/// What an upstream may list: names and URIs that meet often, and odd ones.
fn any_shelf(upstream: &'static str) -> impl Strategy<Value = Shelf> {
    let names = prop::collection::hash_set("(a__|b__|x)?[ab]{1,2}|[a-c]{70,72}|\\PC{1,8}", 0..6);
    let uris = prop::collection::hash_set("(ui://|x:|https://h/|x://(a|b|c)/)[ab]{1,2}|\\PC{1,6}", 0..6);
    let templates = prop::collection::hash_set("(ui://|x:|x://(a|b)/)[ab]?\\{[ab]\\}", 0..4);
    (names, uris, templates, any::<bool>()).prop_map(move |(names, uris, templates, prefix)| {
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let uris: Vec<&str> = uris.iter().map(String::as_str).collect();
        let templates: Vec<&str> = templates.iter().map(String::as_str).collect();
        let shelf = shelf(upstream).tools(&names).prompts(&names).resources(&uris).templates(&templates);
        if prefix { shelf } else { shelf.bare() }
    })
}

proptest! {
    #[test]
    fn everything_is_listed_once_and_found_again(a in any_shelf("a"), b in any_shelf("b"), c in any_shelf("c")) {
        let shelves = [a, b, c];
        let view = merged(&shelves);
        let all = |count: fn(&Offer) -> usize| -> usize {
            shelves.iter().map(|shelf| count(shelf.offer.as_ref().unwrap())).sum()
        };
        prop_assert_eq!(view.tools_after(None).len(), all(|offer| offer.tools.len()));
        prop_assert_eq!(view.prompts_after(None).len(), all(|offer| offer.prompts.len()));
        prop_assert_eq!(view.resources_after(None).len(), all(|offer| offer.resources.len()));
        prop_assert_eq!(view.templates_after(None).len(), all(|offer| offer.templates.len()));

        for tool in view.tools_after(None) {
            prop_assert!((1..=naming::MAX_NAME_LEN).contains(&tool.exposed.len()));
            prop_assert!(Arc::ptr_eq(view.tool(&tool.exposed).unwrap(), tool));
            let listed: HashMap<String, String> = serde_json::from_str(tool.listed.get()).unwrap();
            prop_assert_eq!(&listed["name"], &tool.exposed);
        }
        for (one, other) in view.tools_after(None).zip(view.tools_after(None).skip(1)) {
            prop_assert!(one.exposed < other.exposed);
        }
        for (one, other) in view.resources_after(None).zip(view.resources_after(None).skip(1)) {
            prop_assert!(one.exposed < other.exposed);
        }
        for resource in view.resources_after(None) {
            let place = Located { upstream: resource.upstream.clone(), uri: resource.uri.clone() };
            prop_assert_eq!(&view.locate(&resource.exposed)[0], &place);
        }
        for template in view.templates_after(None) {
            let expanded = |text: &str| text.replace("{a}", "0").replace("{b}", "0");
            let own = expanded(&template.uri_template);
            let place = Located { upstream: template.upstream.clone(), uri: own };
            let exposed = expanded(&template.exposed);
            if view.resources_after(None).all(|resource| resource.exposed != exposed) {
                let located = view.locate(&exposed);
                prop_assert!(located.contains(&place), "{:?} {:?}", located, place);
            }
        }
    }

    #[test]
    fn the_order_of_shelves_and_lists_does_not_matter(a in any_shelf("a"), b in any_shelf("b"), c in any_shelf("c")) {
        let reversed = |shelf: &Shelf| {
            let offer = shelf.offer.as_ref().unwrap();
            let offer = Offer {
                tools: offer.tools.iter().rev().cloned().collect(),
                prompts: offer.prompts.iter().rev().cloned().collect(),
                resources: offer.resources.iter().rev().cloned().collect(),
                templates: offer.templates.iter().rev().cloned().collect(),
                skills: offer.skills.iter().rev().cloned().collect(),
            };
            Shelf { offer: Some(Arc::new(offer)), ..shelf.clone() }
        };
        let (one, other) = (merged(&[a.clone(), b.clone(), c.clone()]), merged(&[c, b, a].each_ref().map(reversed)));
        prop_assert_eq!(tools(&one), tools(&other));
        prop_assert_eq!(resources(&one), resources(&other));
        let closest = |view: &View| view.matched.iter().map(|template| template.exposed.clone()).collect::<Vec<_>>();
        prop_assert_eq!(closest(&one), closest(&other));
    }
}
