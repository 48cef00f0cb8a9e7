//! As much of a page as a person without eyes needs: its forms, its links and what it says.
//!
//! It reads the pages of the gateway, which are well-formed, and nothing else. Where a page is not what it takes it for, it
//! fails rather than guesses.

/// A start tag and the text up to the tag that follows.
#[derive(Clone, Debug)]
pub struct Element {
    pub name: String,
    pub attributes: Vec<(String, String)>,
    pub text: String,
}

impl Element {
    pub fn attribute(&self, name: &str) -> Option<&str> {
        self.attributes.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    fn is_closing(&self, name: &str) -> bool {
        self.name.strip_prefix('/') == Some(name)
    }
}

/// A form with what it would send. `with` fills in, `press` chooses the button.
#[derive(Clone, Debug, Default)]
pub struct Form {
    pub action: String,
    pub method: String,
    pub fields: Vec<(String, String)>,
    /// What people may fill in or choose: names, each with the values that can be chosen, if only some can.
    pub choices: Vec<(String, Vec<String>)>,
    /// Name, value and text of each button.
    pub buttons: Vec<(String, String, String)>,
}

impl Form {
    /// Fills in a field, whatever stood there.
    #[must_use]
    pub fn with(mut self, name: &str, value: &str) -> Self {
        self.fields.retain(|(found, _)| found != name);
        self.fields.push((name.to_owned(), value.to_owned()));
        self
    }

    #[must_use]
    pub fn without(mut self, name: &str) -> Self {
        self.fields.retain(|(found, _)| found != name);
        self
    }

    /// What a field would send.
    pub fn field(&self, name: &str) -> Option<&str> {
        self.fields.iter().find(|(found, _)| found == name).map(|(_, value)| value.as_str())
    }

    /// Presses the button with this value, or with this text.
    ///
    /// # Panics
    /// If there is no such button.
    #[must_use]
    pub fn press(self, which: &str) -> Self {
        let is_it = |(_, value, text): &&(String, String, String)| value == which || text.contains(which);
        let found = self.buttons.iter().find(is_it).cloned();
        let (name, value, _) = found.unwrap_or_else(|| panic!("no button {which}: {:?}", self.buttons));
        if name.is_empty() { self } else { self.with(&name, &value) }
    }
}

/// The elements of a page in order. Comments and the document type are none.
pub fn elements(page: &str) -> Vec<Element> {
    let mut elements = Vec::new();
    let mut rest = page;
    while let Some(at) = rest.find('<') {
        rest = &rest[at + 1..];
        if let Some(comment) = rest.strip_prefix("!--") {
            rest = comment.split_once("-->").expect("a comment ends").1;
            continue;
        }
        let end = tag_end(rest).unwrap_or_else(|| panic!("a tag does not end: {rest}"));
        let (tag, after) = (&rest[..end], &rest[end + 1..]);
        rest = after;
        if tag.starts_with('!') {
            continue;
        }
        let name_end = tag.find(|c: char| c.is_whitespace()).unwrap_or(tag.len());
        let text = &after[..after.find('<').unwrap_or(after.len())];
        elements.push(Element {
            name: tag[..name_end].trim_end_matches('/').to_ascii_lowercase(),
            attributes: attributes(&tag[name_end..]),
            text: words(&decoded(text)),
        });
    }
    elements
}

/// Where a tag ends: at the first `>` outside of quotation marks.
fn tag_end(tag: &str) -> Option<usize> {
    let mut quote = None;
    tag.char_indices().find_map(|(at, character)| {
        match (quote, character) {
            (Some(open), _) if open == character => quote = None,
            (None, '"' | '\'') => quote = Some(character),
            (None, '>') => return Some(at),
            _ => {}
        }
        None
    })
}

fn attributes(text: &str) -> Vec<(String, String)> {
    let mut attributes = Vec::new();
    let mut rest = text.trim().trim_end_matches('/').trim_end();
    while !rest.is_empty() {
        let end = rest.find(|c: char| c == '=' || c.is_whitespace()).unwrap_or(rest.len());
        let name = rest[..end].to_ascii_lowercase();
        rest = rest[end..].trim_start();
        let mut value = String::new();
        if let Some(after) = rest.strip_prefix('=') {
            let after = after.trim_start();
            let quote = after.chars().next().filter(|c| matches!(c, '"' | '\''));
            let (text, left) = match quote {
                Some(quote) => after[1..].split_once(quote).expect("a quoted value ends"),
                None => after.split_at(after.find(char::is_whitespace).unwrap_or(after.len())),
            };
            value = decoded(text);
            rest = left;
        }
        attributes.push((name, value));
        rest = rest.trim_start();
    }
    attributes
}

/// Text without its character references.
///
/// # Panics
/// If there is one that no page of ours needs.
pub fn decoded(text: &str) -> String {
    let mut out = String::new();
    let mut rest = text;
    while let Some(at) = rest.find('&') {
        out.push_str(&rest[..at]);
        rest = &rest[at + 1..];
        let Some((name, after)) = rest.split_once(';').filter(|(name, _)| name.len() < 10) else {
            panic!("an ampersand begins no reference: &{rest}");
        };
        out.push(match name {
            "amp" => '&',
            "lt" => '<',
            "gt" => '>',
            "quot" => '"',
            "apos" => '\'',
            "nbsp" => '\u{a0}',
            "middot" => '·',
            "rarr" => '→',
            "larr" => '←',
            "hellip" => '…',
            _ => numbered(name).unwrap_or_else(|| panic!("&{name}; is not known here")),
        });
        rest = after;
    }
    out + rest
}

fn numbered(name: &str) -> Option<char> {
    let digits = name.strip_prefix('#')?;
    let number = match digits.strip_prefix(['x', 'X']) {
        Some(hex) => u32::from_str_radix(hex, 16),
        None => digits.parse(),
    };
    char::from_u32(number.ok()?)
}

fn words(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// What a page says to whoever reads it from top to bottom.
pub fn text(elements: &[Element]) -> String {
    let shown = elements.iter().filter(|element| !matches!(element.name.as_str(), "style" | "script" | "title"));
    shown.map(|element| element.text.as_str()).filter(|text| !text.is_empty()).collect::<Vec<_>>().join(" ")
}

/// The forms of a page.
pub fn forms(elements: &[Element]) -> Vec<Form> {
    let mut forms = Vec::new();
    let mut rest = elements;
    while let Some(at) = rest.iter().position(|element| element.name == "form") {
        let length = rest[at..].iter().position(|element| element.is_closing("form")).expect("a form ends");
        forms.push(form(&rest[at..at + length]));
        rest = &rest[at + length..];
    }
    forms
}

fn form(elements: &[Element]) -> Form {
    let own = |name: &str| elements[0].attribute(name).unwrap_or_default().to_owned();
    let mut form = Form { action: own("action"), method: own("method").to_ascii_uppercase(), ..Form::default() };
    let mut select = String::new();
    for (at, element) in elements.iter().enumerate() {
        let said = |name: &str| element.attribute(name).unwrap_or_default().to_owned();
        let (name, value) = (said("name"), said("value"));
        let is_chosen = element.attribute("checked").is_some() || element.attribute("selected").is_some();
        match (element.name.as_str(), element.attribute("type").unwrap_or_default()) {
            ("input", "submit" | "image") => form.buttons.push((name, value.clone(), value)),
            ("button", "" | "submit") => {
                let inside = elements[at..].iter().take_while(|inner| !inner.is_closing("button"));
                let text = inside.map(|inner| inner.text.as_str()).collect::<Vec<_>>().join(" ");
                form.buttons.push((name, value, words(&text)));
            }
            ("input", "radio" | "checkbox") => {
                let value = if element.attribute("value").is_none() { "on".to_owned() } else { value };
                match form.choices.iter_mut().find(|(known, _)| *known == name) {
                    Some((_, values)) => values.push(value.clone()),
                    None => form.choices.push((name.clone(), vec![value.clone()])),
                }
                if is_chosen {
                    form.fields.push((name, value));
                }
            }
            ("input", kind) => {
                if kind != "hidden" {
                    form.choices.push((name.clone(), Vec::new()));
                }
                if !name.is_empty() {
                    form.fields.push((name, value));
                }
            }
            ("textarea", _) => form.fields.push((name, element.text.clone())),
            ("select", _) => {
                form.choices.push((name.clone(), Vec::new()));
                select = name;
            }
            ("option", _) => {
                if let Some((_, values)) = form.choices.iter_mut().find(|(known, _)| *known == select) {
                    if values.is_empty() || is_chosen {
                        form.fields.retain(|(known, _)| *known != select);
                        form.fields.push((select.clone(), value.clone()));
                    }
                    values.push(value);
                }
            }
            _ => {}
        }
    }
    form
}

#[cfg(test)]
mod tests {
    use super::*;

    const PAGE: &str = r#"<!doctype html><title>No text</title><!-- <form> -->
        <h1>Sign in &amp; go &#x27;on&#39;</h1>
        <form method="post" action="/a?b=1&amp;c=2"><input type=hidden name="token" value="x&quot;y>z">
        <label>Name <input name="login" required></label>
        <input type="radio" name="which" value="one" checked><input type="radio" name="which" value="two">
        <select name="size"><option value="s">S</option><option value="l" selected>L</option></select>
        <button name="do" value="it"><b>Do</b> it</button></form><form action="/other"><button>Leave</button></form>"#;

    #[test]
    fn a_page_is_read() {
        let elements = elements(PAGE);
        assert!(text(&elements).starts_with("Sign in & go 'on' Name"), "{}", text(&elements));
        let forms = forms(&elements);
        assert_eq!(forms.len(), 2);
        assert_eq!((forms[0].action.as_str(), forms[0].method.as_str()), ("/a?b=1&c=2", "POST"));
        let fields = forms[0].clone().with("login", "me").press("Do it").fields;
        let wanted = [("token", "x\"y>z"), ("which", "one"), ("size", "l"), ("login", "me"), ("do", "it")];
        assert_eq!(fields, wanted.map(|(name, value)| (name.to_owned(), value.to_owned())));
        let choices = [("login", vec![]), ("which", vec!["one", "two"]), ("size", vec!["s", "l"])];
        let owned = |values: &Vec<&str>| values.iter().map(|value| (*value).to_owned()).collect::<Vec<_>>();
        assert_eq!(forms[0].choices, choices.map(|(name, values)| (name.to_owned(), owned(&values))));
        assert_eq!(forms[1].buttons, [(String::new(), String::new(), "Leave".to_owned())]);
    }
}
