//! What an upstream would not have (`docs/threat-model.md` row U9).
//!
//! A token that was refused is renewed once, whatever its end. If the upstream refuses one that is a minute old at most, asking
//! for more of them is of no use: the connection is marked, and its person has to connect anew. So refusals cost one refresh
//! a minute at most, however many calls are refused. A scope that is missing says nothing of other calls, and nothing is
//! marked for it.

use std::sync::Arc;
use std::time::Duration;

use super::kept::{Of, Opened};
use super::renewing::Renewal;
use super::{Keeper, Verdict, judge};
use crate::connection::Reason;
use crate::connection::lending::{Lack, Lent, Rejected, Wanted, Withheld};
use crate::env::Timestamp;
use crate::identity::TokenList;
use crate::store::connections::Trouble;

/// How long what an upstream refused counts as fresh.
pub(super) const MINUTE: Duration = Duration::from_secs(60);

impl Keeper {
    /// What to send in the place of what was refused.
    pub(super) async fn hear_refused(
        &self,
        wanted: &Wanted,
        lent: &Lent,
        why: &Rejected,
    ) -> Result<Arc<Lent>, Withheld> {
        // Another gateway may have stored something newer that nobody was told of here.
        if self.0.kept.get(&wanted.place).is_some_and(|opened| is_same(&opened.lent, lent)) {
            self.0.kept.forget(&wanted.place);
        }
        let opened = self.look(&wanted.place).await?;
        match why {
            Rejected::InsufficientScope(asked) => self.step_up(wanted, lent, &opened, asked).await,
            Rejected::Unauthorized if !is_same(&opened.lent, lent) => self.find(wanted).await,
            Rejected::Unauthorized => self.replace(wanted, &opened).await,
        }
    }

    /// Another credential than this one, which the upstream does not take any more.
    async fn replace(&self, wanted: &Wanted, opened: &Opened) -> Result<Arc<Lent>, Withheld> {
        let is_renewable = match &opened.of {
            Of::Headers { .. } => return Err(self.count_refusal(&opened.lent).await),
            Of::OAuth { is_renewable, .. } => *is_renewable,
        };
        if !is_renewable || is_fresh(opened.stored, self.0.env.now()) {
            return Err(self.unauthorized(&opened.lent).await);
        }
        match self.renewed(opened).await {
            Renewal::Done => self.find(wanted).await,
            other => Err(other.withheld().unwrap_or_else(|lacking| lacking)),
        }
    }

    /// Values that a person typed may be refused once for reasons that pass.
    async fn count_refusal(&self, lent: &Lent) -> Withheld {
        let this = (lent.connection.clone(), lent.revision);
        if self.0.refusals.get(&lent.place).is_some_and(|refused| refused == this) {
            return self.unauthorized(lent).await;
        }
        self.0.refusals.insert(lent.place.clone(), this);
        Withheld::Missing(Lack::NeedsReauth(Reason::Unauthorized))
    }

    async fn unauthorized(&self, lent: &Lent) -> Withheld {
        match self.mark(lent, Trouble::Reauth(Reason::Unauthorized)).await {
            // If something newer is there, the next call has it.
            Ok(_) => Withheld::Missing(Lack::NeedsReauth(Reason::Unauthorized)),
            Err(fault) => fault,
        }
    }

    /// The scopes that a person is asked for: those that there are, and those that the upstream wants besides.
    async fn step_up(
        &self,
        wanted: &Wanted,
        lent: &Lent,
        opened: &Opened,
        asked: &[String],
    ) -> Result<Arc<Lent>, Withheld> {
        let Of::OAuth { scopes, .. } = &opened.of else {
            return Err(Withheld::Missing(Lack::NeedsReauth(Reason::InsufficientScope)));
        };
        let has_all = asked.iter().all(|scope| scopes.contains(scope));
        if has_all && !is_same(&opened.lent, lent) {
            // Its person has connected with more meanwhile.
            return self.find(wanted).await;
        }
        match judge(opened, wanted, self.0.env.now()) {
            // What cannot be lent for another reason has that one to be told.
            Verdict::Withhold(withheld) => Err(withheld),
            _ => Err(Withheld::Missing(Lack::NeedsScopes(union(scopes, asked)))),
        }
    }
}

pub(super) fn is_same(one: &Lent, other: &Lent) -> bool {
    (&one.connection, one.revision) == (&other.connection, other.revision)
}

/// Whether secrets were stored a minute ago at most. Those of the future were stored before the clock was set back.
pub(super) fn is_fresh(stored: Timestamp, now: Timestamp) -> bool {
    now < stored.after(MINUTE)
}

/// Both, each scope once, as many as a list may have. What is no scope is left out: an upstream said it.
pub(super) fn union(stored: &TokenList, asked: &[String]) -> Vec<String> {
    let mut all = stored.to_vec();
    for scope in asked {
        let is_scope = TokenList::parse(vec![scope.clone()]).is_ok();
        if is_scope && !all.contains(scope) && all.len() < TokenList::MAX_COUNT {
            all.push(scope.clone());
        }
    }
    all
}

#[cfg(test)]
mod tests {
    use super::*;

    fn words(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_step_up_asks_for_what_there_is_and_what_is_wanted() {
        let stored = TokenList::parse(words(&["read", "write"])).unwrap();
        for (asked, expected) in [
            (&["admin"][..], &["read", "write", "admin"][..]),
            (&["write", "admin", "admin"], &["read", "write", "admin"]),
            (&[], &["read", "write"]),
            (&["a b", "\"", "", "ä", "x\r\ny", "good"], &["read", "write", "good"]),
        ] {
            assert_eq!(union(&stored, &words(asked)), words(expected), "{asked:?}");
        }
        let many: Vec<String> = (0..500).map(|number| number.to_string()).collect();
        assert_eq!(union(&stored, &many).len(), TokenList::MAX_COUNT);
    }

    #[test]
    fn what_was_stored_a_minute_ago_is_not_fresh_any_more() {
        let stored = Timestamp::from_millis(1_000_000);
        assert!(is_fresh(stored, stored.after(MINUTE - Duration::from_millis(1))));
        assert!(!is_fresh(stored, stored.after(MINUTE)));
        assert!(is_fresh(stored, stored.before(MINUTE)));
    }
}
