//! Files that a form sends: `multipart/form-data`, read in the order in which it comes. Its first part is the form's token, so
//! that nothing is read of a form that is not ours.

use std::collections::BTreeMap;
use std::time::Duration;

use axum::extract::multipart::{Field, MultipartError};
use axum::extract::{FromRequest, Multipart, Request};
use bytes::Bytes;
use http::StatusCode;

use super::desk::{Desk, Stop};
use super::{Person, address, sign_in};
use crate::http::api::Problem;
use crate::http::oauth::csrf::{self, NotOurs};
use crate::http::oauth::pages::{self, see_other};

/// Parts of one form.
const MAX_PARTS: usize = 8;
/// Longest token of a form, in bytes.
const MAX_TOKEN: usize = 4096;
const TIMEOUT: Duration = Duration::from_secs(120);

/// The files of a form of ours, by the names of their fields. How large they may be together is said where the route is.
pub(super) struct SentFiles(BTreeMap<String, Bytes>);

impl SentFiles {
    /// Reads a form that this person was shown for the address that it is sent to, which is sent for the first time.
    pub(super) async fn read(desk: &Desk, person: &Person, request: Request) -> Result<Self, Stop> {
        let (path, from, shown) = (request.uri().path().to_owned(), address(&request), request.headers().clone());
        if !desk.console.is_ours(request.headers()) {
            return Err(Stop::Page(pages::not_ours(desk.site(), &NotOurs::Foreign)));
        }
        let parts = Multipart::from_request(request, desk).await;
        let mut parts = parts.map_err(|_| Stop::Page(pages::not_ours(desk.site(), &NotOurs::Unsupported)))?;
        let read = async {
            let token = token(parts.next_field().await.map_err(|error| refused(&error))?).await?;
            desk.take_token(person, &path, &token, from).await?;
            files(&mut parts).await
        };
        let late = || Problem::new(StatusCode::REQUEST_TIMEOUT, "bad_body", "the files took too long to come");
        let sent = tokio::time::timeout(TIMEOUT, read).await.map_err(|_| late())??;
        // The last boundary ends the form, and what the door says at the end of the body is never read.
        match desk.console.person_still(&shown).await.map_err(Stop::Page)? {
            Some(now) if now.user.id == person.user.id && now.user.role >= person.user.role => Ok(sent),
            _ => {
                let told = format!("{}?{}={}", sign_in::PATH, sign_in::FORM, sign_in::LOST);
                Err(Stop::Page(see_other(&desk.site().address(&told))))
            }
        }
    }

    /// The content of a file. Nothing where none was chosen.
    pub(super) fn take(&mut self, name: &str) -> Option<Bytes> {
        self.0.remove(name).filter(|content| !content.is_empty())
    }
}

/// What the first part has, if that is a token. A form of something else has none that is good.
async fn token(first: Option<Field<'_>>) -> Result<String, Stop> {
    let Some(mut first) = first.filter(|first| first.name() == Some(csrf::FIELD)) else { return Ok(String::new()) };
    let mut token = Vec::new();
    while let Some(chunk) = first.chunk().await.map_err(|error| refused(&error))? {
        if token.len() + chunk.len() > MAX_TOKEN {
            return Ok(String::new());
        }
        token.extend_from_slice(&chunk);
    }
    Ok(String::from_utf8(token).unwrap_or_default())
}

async fn files(parts: &mut Multipart) -> Result<SentFiles, Stop> {
    let mut files = BTreeMap::new();
    while let Some(part) = parts.next_field().await.map_err(|error| refused(&error))? {
        if files.len() >= MAX_PARTS {
            return Err(Problem::invalid("the form has too many parts").into());
        }
        let name = part.name().unwrap_or_default().to_owned();
        let content = part.bytes().await.map_err(|error| refused(&error))?;
        files.insert(name, content);
    }
    Ok(SentFiles(files))
}

fn refused(error: &MultipartError) -> Stop {
    Problem::new(error.status(), "bad_body", error.body_text()).into()
}
