//! Which settings of the federation can be meant, by themselves and beside a number of users.

use super::rules::{Needs, Rules};
use super::{attacks, cohort_size, protocol, rules};
use crate::config::range::{at_least_one, ensure, number, range, refuse};
use crate::config::{Clients, Settings};
use crate::engine::kept_by_clients;
use crate::privacy::UserPrivacy;
use crate::{Result, eval};

/// Refuses rates out of range, and protocols and rules that are not known or do not go with the rest.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn check(settings: &Settings) -> Result<()> {
    let s = &settings.federation;
    number(|x| x > 0.0 && x <= 1.0, "federation.fraction", s.fraction, "above 0 and at most 1 (a share)")?;
    at_least_one("federation.rounds", s.rounds)?;
    let groups = "\"groups:N\" with N of at least 1";
    ensure(s.clients != Clients::Groups(0), "federation.clients", s.clients, groups)?;
    for (i, group) in s.shared.iter().enumerate() {
        let twice = s.shared[..i].contains(group);
        ensure(!twice, "federation.shared", format!("a list with `{}` twice", group.name()), "each group once")?;
    }
    ensure(!s.shared.is_empty(), "federation.shared", "empty", "at least one group; with none the clients would learn alone")?;
    number(|x| (0.0..1.0).contains(&x), "federation.personal", s.personal, "at least 0 and below 1 (a share)")?;
    if s.personal > 0.0 && s.clients != Clients::User {
        return refuse("federation.personal", s.personal, "0, because participants of several users share all that they train");
    }
    if s.personal > 0.0 && s.shared.len() < 2 {
        return refuse("federation.personal", s.personal, "0, or both groups in federation.shared: a private encoder is kept whole");
    }
    number(|x| (0.0..1.0).contains(&x), "federation.max_diverged", s.max_diverged, "at least 0 and below 1 (a share)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.dropout_rate", s.dropout_rate, "at least 0 and below 1 (a share)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.ranking_average", s.ranking_average, "at least 0 and below 1 (a share)")?;
    number(|x| x > 0.0, "federation.server_lr", s.server_lr, "a finite number above 0")?;
    number(|x| (0.0..=1.0).contains(&x), "federation.server_warmup", s.server_warmup, "between 0 and 1 (a share)")?;
    number(|x| (0.0..=1.0).contains(&x), "federation.server_decay", s.server_decay, "between 0 and 1 (a share)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.server_momentum", s.server_momentum, "at least 0 and below 1 (a rate)")?;
    number(|x| (0.0..1.0).contains(&x), "federation.server_beta2", s.server_beta2, "at least 0 and below 1 (a rate)")?;
    number(|x| x > 0.0, "federation.server_eps", s.server_eps, "a finite number above 0")?;
    if s.server_correction && !s.server.forgets() && !(s.server.adapts() && s.server_momentum > 0.0) {
        let wanted = "false, or federation.server = \"fedadam\" or \"fedyogi\", or \"fedadagrad\" with federation.server_momentum above 0: only moments that \
             decay are corrected";
        return refuse("federation.server_correction", true, wanted);
    }
    if s.server_correction && s.protocol.split_whitespace().next() != Some("averaging") {
        let wanted = format!("false, because federation.protocol = \"{}\" has another server", s.protocol);
        return refuse("federation.server_correction", true, &wanted);
    }
    if s.clients == Clients::Column && settings.data.group_column.is_empty() {
        let wanted = "data.group_column, which names the column; or \"groups:N\" for groups by chance";
        return refuse("federation.clients", "column", wanted);
    }
    protocol::chosen(settings)?;
    local(settings)?;
    local_epochs(settings)?;
    attack(settings)?;
    let rules = Rules::new(rules::asked(settings)?);
    if s.protocol.split_whitespace().next() != Some("averaging") {
        let wanted = format!("0, because federation.protocol = \"{}\" trains at one rate", s.protocol);
        ensure(settings.local.decay == 0.0, "local.decay", settings.local.decay, &wanted)?;
        let wanted = format!("0, because federation.protocol = \"{}\" sends no weights that a visit could stay near", s.protocol);
        ensure(settings.local.proximal == 0.0, "local.proximal", settings.local.proximal, &wanted)?;
        let wanted = format!("0, because federation.protocol = \"{}\" has no global model that ranks from round to round", s.protocol);
        ensure(s.ranking_average == 0.0, "federation.ranking_average", s.ranking_average, &wanted)?;
        for (key, name) in [("attack.name", &settings.attack.name), ("defence.name", &settings.defence.name)] {
            let wanted = format!("`none`, because federation.protocol = \"{}\" uploads no updates that a rule could change", s.protocol);
            ensure(name == "none", key, format!("`{name}`"), &wanted)?;
        }
    }
    if settings.privacy.secure_sum {
        let mut without = settings.clone();
        without.attack = Default::default();
        let single = Rules::new(rules::asked(&without)?).needs() == Needs::All;
        let key = if settings.defence.name == "none" { "federation.rules" } else { "defence.name" };
        ensure(!single, key, "a rule that looks at single updates", "rules that do without them under privacy.secure_sum")?;
    }
    weighed_rows(settings)?;
    if settings.privacy.is_on() && rules.needs() == Needs::All {
        let wanted = "rules that leave the mean as it is under user-level privacy: what another puts in its place has no noise";
        return refuse(
            if s.rules.is_empty() { "defence.name" } else { "federation.rules" },
            if s.rules.is_empty() { settings.defence.name.clone() } else { s.rules.join(", ") },
            wanted,
        );
    }
    Ok(())
}

/// Largest rate of a preconditioned step on a weight without a moment: with more, any gradient is a divergence.
const MOST_PRECONDITIONED: f32 = 100.0;

/// Refuses optimisers of the client that need what the server or the client does not keep.
fn local(settings: &Settings) -> Result<()> {
    let (local, s) = (&settings.local, &settings.federation);
    if local.optimizer.takes_second() {
        let refused = |wanted: &str| refuse("local.optimizer", format!("`{}`", local.optimizer.name()), wanted);
        if !s.server.adapts() || s.protocol.split_whitespace().next() != Some("averaging") {
            return refused(
                "an optimiser without the server's second moments, or federation.server = \"fedadam\", \"fedadagrad\" or \"fedyogi\" under the \
                 protocol `averaging`",
            );
        }
        if s.server_correction {
            return refused("another optimiser, or federation.server_correction = false: the moments that go down are not corrected");
        }
        if kept_by_clients(s) {
            return refused(
                "an optimiser with moments of its own, or all of the model shared: of weights that clients keep the server has no moments",
            );
        }
        // A weight that the server has not moved yet has no moment: it steps at lr / eps.
        if local.lr > MOST_PRECONDITIONED * local.eps {
            let wanted = format!(
                "at most {MOST_PRECONDITIONED} times local.eps ({}) under `preconditioned`: weights that the server has not moved yet step at lr / eps",
                local.eps
            );
            return refuse("local.lr", local.lr, &wanted);
        }
        if s.clients == Clients::One {
            return refused(
                "an optimiser with moments of its own, because federation.clients = \"one\" goes on with them from round to round",
            );
        }
    }
    if local.proximal > 0.0 && kept_by_clients(s) {
        let wanted = "0, or all of the model shared: weights that a client keeps are not those of the server";
        return refuse("local.proximal", local.proximal, wanted);
    }
    Ok(())
}

/// Refuses local epochs before a ranking where no client has weights of one user alone.
fn local_epochs(settings: &Settings) -> Result<()> {
    let (key, epochs, s) = ("eval.local_epochs", settings.eval.local_epochs, &settings.federation);
    if epochs == 0 {
        return Ok(());
    }
    if s.protocol.split_whitespace().next() != Some("averaging") {
        return refuse(
            key,
            epochs,
            &format!("0, because federation.protocol = \"{}\" ranks by no model that a client trains on", s.protocol),
        );
    }
    if s.clients != Clients::User {
        return refuse(key, epochs, "0, or federation.clients = \"user\": a participant of several users has no weights of one of them");
    }
    if settings.local.optimizer.takes_second() {
        return refuse(key, epochs, "0, or another local.optimizer: the server's second moments go down for a round, not for a ranking");
    }
    ensure(s.personal == 0.0, key, epochs, "0, or federation.personal = 0: beside it each client keeps weights of its own already")
}

/// Refuses a rule that weighs rows where its sums of weights would say what privacy hides, or where another mean takes the place of the weighted one.
fn weighed_rows(settings: &Settings) -> Result<()> {
    let mut honest = settings.clone();
    honest.attack = Default::default();
    let honest = Rules::new(rules::asked(&honest)?);
    let listed = settings.federation.rules.join(", ");
    match honest.weighing_rows() {
        0 => return Ok(()),
        1 => (),
        _ => return refuse("federation.rules", listed, "one rule that weighs rows: several would each divide by weights of their own"),
    }
    if settings.privacy.is_on() {
        let wanted =
            "rules that weigh no rows under user-level privacy (privacy.noise, privacy.epsilon): the sums of the weights have no noise";
        return refuse("federation.rules", listed, wanted);
    }
    let wanted = format!(
        "no rule that weighs rows beside defence.name = \"{}\" or another rule that looks at all updates: these make a mean without weights",
        settings.defence.name
    );
    ensure(honest.needs() < Needs::All, "federation.rules", listed, &wanted)
}

/// Refuses attacks that cannot be meant.
fn attack(settings: &Settings) -> Result<()> {
    let (attack, federation) = (&settings.attack, &settings.federation);
    range((0.0..=1.0).contains(&attack.share), "attack.share", attack.share, "a share from 0 to 1")?;
    at_least_one("attack.from", attack.from)?;
    eval::check_targets("attack.target", &attack.target)?;
    eval::check_targets("attack.carriers", &attack.carriers)?;
    let carriers = attack.carriers.join(", ");
    ensure(
        attack.carriers.is_empty() || !attack.titles.is_empty(),
        "attack.carriers",
        carriers,
        "empty without attack.titles, which they carry",
    )?;
    let Some((kind, options)) = attacks::chosen(settings)? else { return Ok(()) };
    (kind.build)(&options)?;
    ensure(attack.share > 0.0, "attack.share", attack.share, "a share above 0 beside an attack with clients of its own")?;
    if federation.clients != Clients::User {
        return refuse("federation.clients", federation.clients, "\"user\" beside an attack with clients of its own");
    }
    if (kind.build)(&options)?.crafts() && federation.shared.len() < 2 {
        let name = kind.name;
        return refuse("federation.shared", "a part of the model", &format!("both groups beside {name}, whose rows are uploaded"));
    }
    Ok(())
}

/// The user-level privacy that `settings` ask for among `users`, if any.
///
/// # Errors
/// As [`UserPrivacy::of`].
pub fn privacy_of(settings: &Settings, users: usize) -> Result<Option<UserPrivacy>> {
    UserPrivacy::of(settings, users, cohort_size(&settings.federation, users) as f64 / users.max(1) as f64)
}

/// Refuses more participants than `users` users can be.
///
/// # Errors
/// [`crate::Error::Setting`] with the key and what to do.
pub fn fits(settings: &Settings, users: u64) -> Result<()> {
    let cohort = settings.federation.cohort;
    match settings.federation.clients {
        Clients::User => {
            let most = format!("between 0 and {users}, the number of users of `{}`", settings.data.name);
            range(u64::from(cohort) <= users, "federation.cohort", cohort, &most)?;
        }
        Clients::One => {
            ensure(cohort <= 1, "federation.cohort", cohort, "0 or 1, because federation.clients = \"one\" has one participant")?
        }
        Clients::Column => {
            let most = format!("between 0 and the number of groups, at most {users}");
            range(u64::from(cohort) <= users, "federation.cohort", cohort, &most)?;
        }
        Clients::Groups(n) => {
            range(cohort <= n, "federation.cohort", cohort, &format!("between 0 and {n}, the number of groups"))?;
            let most = format!("\"groups:N\" with at most {users} groups, the number of users of `{}`", settings.data.name);
            ensure(u64::from(n) <= users, "federation.clients", settings.federation.clients, &most)?;
        }
    }
    Ok(())
}
