//! The form of a key: what is typed, and what it asks of the API.

use super::lines;
use crate::http::api::keys::{AllowLine, KeyChange, KeyRequest, KeyView};
use crate::http::api::{Api, Problem};
use crate::http::oauth::csrf::Fields;

/// Longest text of an allow-list that a form takes back, in bytes: as it is sent it is up to three times as long.
const MAX_ALLOW: usize = 4 * 1024;
/// Upstreams that can be ticked.
const MAX_TICKS: usize = 60;

/// What is typed.
#[derive(Default)]
pub(super) struct KeyForm {
    pub(super) name: String,
    /// None where the list is too long for a form, and stays as it is.
    pub(super) allow: Option<String>,
    /// Upstreams that there are: all of those that are ticked is allowed besides.
    pub(super) ticks: Vec<Tick>,
    /// Those that are ticked and are not there any more.
    pub(super) gone: Vec<String>,
    /// With spaces between them, as groups.
    pub(super) scopes: String,
    pub(super) groups: String,
    pub(super) owner: String,
    /// In UTC, to the minute, as browsers send it.
    pub(super) expires: String,
}

pub(super) struct Tick {
    pub(super) upstream: String,
    pub(super) is_set: bool,
}

impl Tick {
    /// The name of its field.
    pub(super) fn field(&self) -> String {
        field_of(&self.upstream)
    }
}

fn field_of(upstream: &str) -> String {
    format!("all-{upstream}")
}

impl KeyForm {
    /// An empty one.
    pub(super) fn new(api: &Api) -> Self {
        Self { allow: Some(String::new()), ticks: ticks(api), ..Self::default() }
    }

    /// What a key is now.
    pub(super) fn of(api: &Api, key: &KeyView) -> Self {
        Self {
            name: key.name.to_string(),
            allow: Some(lines::write(&key.allow)).filter(|text| text.len() <= MAX_ALLOW),
            ticks: ticks(api),
            gone: Vec::new(),
            scopes: key.scopes.join(" "),
            groups: key.groups.join(" "),
            owner: key.owner.clone().unwrap_or_default(),
            expires: key.expires.as_deref().map(to_the_minute).unwrap_or_default(),
        }
    }

    /// What was sent.
    pub(super) fn read(api: &Api, fields: &mut Fields) -> Self {
        let keeps = !fields.take("keep_allow").is_empty();
        let allow = fields.take("allow");
        let ticks = read_ticks(api, fields);
        Self {
            name: fields.take("name").trim().to_owned(),
            allow: (!keeps).then_some(allow),
            ticks,
            gone: fields.starting_with(&field_of("")),
            scopes: fields.take("scopes"),
            groups: fields.take("groups"),
            owner: fields.take("owner").trim().to_owned(),
            expires: fields.take("expires").trim().to_owned(),
        }
    }

    /// What it asks for, of a key to be.
    pub(super) fn request(&self) -> Result<KeyRequest, Problem> {
        Ok(KeyRequest {
            name: self.name.clone(),
            allow: self.lines()?.unwrap_or_default(),
            scopes: words(&self.scopes),
            groups: words(&self.groups),
            owner: Some(self.owner.clone()).filter(|owner| !owner.is_empty()),
            expires: self.expires(),
        })
    }

    /// What it asks for of a key that is like this: what is typed as it was is left alone.
    pub(super) fn change(&self, key: &KeyView) -> Result<KeyChange, Problem> {
        let (scopes, groups, owner) = (words(&self.scopes), words(&self.groups), self.owner.clone());
        let shown = key.expires.as_deref().map(to_the_minute).unwrap_or_default();
        Ok(KeyChange {
            allow: self.lines()?.filter(|lines| *lines != key.allow).map(Some),
            scopes: (scopes != key.scopes).then_some(Some(scopes)),
            groups: (groups != key.groups).then_some(Some(groups)),
            owner: (owner != key.owner.as_deref().unwrap_or_default())
                .then(|| Some(owner).filter(|owner| !owner.is_empty())),
            expires: (self.expires != shown).then(|| self.expires()),
            disabled: None,
        })
    }

    /// The allow-list, with what is ticked at its end; none where it stays as it is.
    fn lines(&self) -> Result<Option<Vec<AllowLine>>, Problem> {
        let Some(text) = &self.allow else { return Ok(None) };
        if !self.gone.is_empty() {
            let gone = self.gone.join(", ");
            return Err(Problem::invalid(format!("There is no upstream any more that was ticked: {gone}.")));
        }
        let mut lines = lines::read(text).map_err(|wrong| Problem::invalid(format!("The allow-list: {wrong}.")))?;
        let ticked = self.ticks.iter().filter(|tick| tick.is_set);
        let whole = ticked.map(|tick| AllowLine { upstream: tick.upstream.clone(), tools: vec!["*".to_owned()] });
        for line in whole {
            if !lines.contains(&line) {
                lines.push(line);
            }
        }
        Ok(Some(lines))
    }

    /// As the API reads it. What is no moment goes there as it is, and is refused there.
    fn expires(&self) -> Option<String> {
        let text = self.expires.as_str();
        match (text.len(), text.ends_with('Z')) {
            (0, _) => None,
            (10, false) => Some(format!("{text}T00:00:00Z")),
            (16, false) => Some(format!("{text}:00Z")),
            (19, false) => Some(format!("{text}Z")),
            _ => Some(text.to_owned()),
        }
    }
}

/// What can be ticked.
fn ticks(api: &Api) -> Vec<Tick> {
    let snapshot = api.control.snapshot.load();
    let names = snapshot.upstreams.keys().take(MAX_TICKS);
    names.map(|name| Tick { upstream: name.to_string(), is_set: false }).collect()
}

/// What was ticked, among what can be ticked now: other upstreams may be the first ones meanwhile.
fn read_ticks(api: &Api, fields: &mut Fields) -> Vec<Tick> {
    let snapshot = api.control.snapshot.load();
    let is_set = |upstream: &str, fields: &mut Fields| !fields.take(&field_of(upstream)).is_empty();
    let all = snapshot.upstreams.keys().enumerate().map(|(at, name)| {
        let tick = Tick { upstream: name.to_string(), is_set: is_set(name.as_str(), fields) };
        (at < MAX_TICKS || tick.is_set).then_some(tick)
    });
    all.flatten().collect()
}

fn words(text: &str) -> Vec<String> {
    text.split_whitespace().map(str::to_owned).collect()
}

/// A moment of the API as a field of a form has it.
fn to_the_minute(at: &str) -> String {
    at.get(..16).unwrap_or(at).to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::ids::KeyName;

    fn key() -> KeyView {
        let line = AllowLine { upstream: "notes".to_owned(), tools: vec!["*".to_owned()] };
        KeyView {
            name: KeyName::parse("ci").unwrap(),
            allow: vec![line],
            scopes: vec!["read".to_owned()],
            groups: Vec::new(),
            owner: Some("ada".to_owned()),
            created: Some("2026-01-01T00:00:00.000Z".to_owned()),
            expires: Some("2027-01-31T10:20:30.400Z".to_owned()),
            disabled: false,
            earlier_until: None,
            managed_by: "store",
            revision: Some(1),
        }
    }

    /// As it is shown of that key.
    fn shown() -> KeyForm {
        KeyForm {
            name: "ci".to_owned(),
            allow: Some("notes: *".to_owned()),
            ticks: vec![Tick { upstream: "tracker".to_owned(), is_set: false }],
            gone: Vec::new(),
            scopes: "read".to_owned(),
            groups: String::new(),
            owner: "ada".to_owned(),
            expires: "2027-01-31T10:20".to_owned(),
        }
    }

    #[test]
    fn what_is_typed_as_it_was_is_left_alone() {
        let KeyChange { allow, scopes, groups, owner, expires, disabled } = shown().change(&key()).unwrap();
        assert!(allow.is_none() && scopes.is_none() && groups.is_none() && owner.is_none());
        assert!(expires.is_none() && disabled.is_none(), "the seconds of a moment are not cut off");
        let kept = KeyForm { allow: None, ..shown() };
        assert!(kept.change(&key()).unwrap().allow.is_none());
    }

    #[test]
    fn what_is_emptied_is_taken_away_and_what_is_ticked_is_added() {
        let tick = Tick { upstream: "tracker".to_owned(), is_set: true };
        let empty = String::new;
        let form = KeyForm { ticks: vec![tick], owner: empty(), expires: empty(), scopes: empty(), ..shown() };
        let change = form.change(&key()).unwrap();
        assert_eq!((change.owner, change.expires, change.scopes), (Some(None), Some(None), Some(Some(Vec::new()))));
        let upstreams: Vec<String> = change.allow.unwrap().unwrap().into_iter().map(|line| line.upstream).collect();
        assert_eq!(upstreams, ["notes", "tracker"]);
    }

    #[test]
    fn what_is_ticked_and_gone_is_refused() {
        let form = KeyForm { gone: vec!["tracker".to_owned()], ..shown() };
        assert!(form.change(&key()).is_err_and(|problem| problem.detail.contains("tracker")));
    }

    #[test]
    fn a_moment_is_read_as_browsers_and_people_write_it() {
        for (typed, said) in [
            ("", None),
            ("2027-01-31", Some("2027-01-31T00:00:00Z")),
            ("2027-01-31T10:20", Some("2027-01-31T10:20:00Z")),
            ("2027-01-31T10:20:30", Some("2027-01-31T10:20:30Z")),
            ("2027-01-31T10:20:30Z", Some("2027-01-31T10:20:30Z")),
            ("soon", Some("soon")),
        ] {
            let form = KeyForm { expires: typed.to_owned(), ..shown() };
            assert_eq!(form.expires().as_deref(), said, "{typed}");
        }
    }
}
