//! Answers of the hook `list_tools` about one tool.

use crate::Visibility;

/// Whether a caller sees a tool, and how it is described to them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Listing {
    pub visibility: Visibility,
    pub title: Option<String>,
    pub description: Option<String>,
}

impl Listing {
    /// No opinion.
    pub fn abstain() -> Self {
        Visibility::Abstain.into()
    }

    /// The caller sees the tool.
    pub fn show() -> Self {
        Visibility::Show.into()
    }

    /// The caller does not see the tool, and the host refuses calls of it.
    pub fn hide() -> Self {
        Visibility::Hide.into()
    }

    /// Shows another title. Needs `mutates(Hook::ListTools)` in the manifest.
    #[must_use]
    pub fn title(mut self, title: impl Into<String>) -> Self {
        self.title = Some(title.into());
        self
    }

    /// Shows another description. Needs `mutates(Hook::ListTools)` in the manifest.
    #[must_use]
    pub fn description(mut self, description: impl Into<String>) -> Self {
        self.description = Some(description.into());
        self
    }
}

impl From<Visibility> for Listing {
    fn from(visibility: Visibility) -> Self {
        Self { visibility, title: None, description: None }
    }
}
