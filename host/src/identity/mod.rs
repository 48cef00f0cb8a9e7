//! Who acts: from what a request presents to a [`Caller`], or a refusal that says nothing about why.
//!
//! Whether the caller may do what is asked is not decided here; that is `policy`.

pub mod api_token;
pub mod bearer;
pub mod browser;
pub mod caller;
pub mod key;
pub mod keyring;
pub mod people;
pub mod tokens;
pub mod tool_scope;
pub mod user;

pub use caller::{Caller, Pass};
pub use keyring::Keyring;
pub use people::{People, Person};
pub use tokens::TokenList;
pub use tool_scope::ToolScope;
