//! Environment variables that people give values for: which names there may be. Values are those of headers
//! ([`super::header::value`]).
//!
//! Pure. A name is written `[A-Z_][A-Z0-9_]*` with a letter in it, so that it is never the name of a header, which is in lower
//! case. What tells a process where to find code, or how to run it, is nobody's to give.

/// Longest name, in bytes.
pub const MAX_NAME_BYTES: usize = 128;

/// Variables that the gateway sets itself, or that change what a program does before it reads its settings.
const FORBIDDEN: &[&str] = &[
    "ALL_PROXY",
    "AWS_CA_BUNDLE",
    "AWS_CONFIG_FILE",
    "AWS_SHARED_CREDENTIALS_FILE",
    "BASHOPTS",
    "BASH_ENV",
    "BASH_LOADABLES_PATH",
    "BROWSER",
    "CDPATH",
    "CHROME_PATH",
    "CLASSPATH",
    "CURL_CA_BUNDLE",
    "CURL_HOME",
    "DOCKER_CONFIG",
    "DOCKER_HOST",
    "EDITOR",
    "ELECTRON_RUN_AS_NODE",
    "ENV",
    "FPATH",
    "FTP_PROXY",
    "GIT_ALLOW_PROTOCOL",
    "GIT_ASKPASS",
    "GIT_COMMON_DIR",
    "GIT_DIR",
    "GIT_EDITOR",
    "GIT_EXEC_PATH",
    "GIT_EXTERNAL_DIFF",
    "GIT_PAGER",
    "GIT_PROXY_COMMAND",
    "GIT_SEQUENCE_EDITOR",
    "GIT_SSH",
    "GIT_SSH_COMMAND",
    "GIT_TEMPLATE_DIR",
    "GIT_WORK_TREE",
    "GLIBC_TUNABLES",
    "GLOBIGNORE",
    "GOFLAGS",
    "GOPROXY",
    "GRADLE_OPTS",
    "GRPC_DEFAULT_SSL_ROOTS_FILE_PATH",
    "GTK_MODULES",
    "HOME",
    "HOSTALIASES",
    "HTTPS_PROXY",
    "HTTP_PROXY",
    "IFS",
    "JAVA_HOME",
    "JAVA_OPTS",
    "JAVA_TOOL_OPTIONS",
    "JDK_JAVA_OPTIONS",
    "KRB5_CONFIG",
    "KUBECONFIG",
    "LANG",
    "LANGUAGE",
    "LESSCLOSE",
    "LESSOPEN",
    "LOCALDOMAIN",
    "LOCPATH",
    "LOGNAME",
    "MANPAGER",
    "MAVEN_OPTS",
    "NLSPATH",
    "NO_PROXY",
    "OLDPWD",
    "PAGER",
    "PATH",
    "PERL5DB",
    "PERL5LIB",
    "PERL5OPT",
    "PERLLIB",
    "PHPRC",
    "PHP_INI_SCAN_DIR",
    "PROMPT_COMMAND",
    "PS4",
    "PWD",
    "QT_PLUGIN_PATH",
    "REQUESTS_CA_BUNDLE",
    "RESOLV_HOST_CONF",
    "RES_OPTIONS",
    "RSYNC_PROXY",
    "RUSTC_WRAPPER",
    "SHELL",
    "SHELLOPTS",
    "SOCKS_PROXY",
    "SSH_ASKPASS",
    "SSH_AUTH_SOCK",
    "SSLKEYLOGFILE",
    "SSL_CERT_DIR",
    "SSL_CERT_FILE",
    "SUDO_ASKPASS",
    "TEMP",
    "TERM",
    "TERMCAP",
    "TERMINFO",
    "TMP",
    "TMPDIR",
    "TZDIR",
    "USER",
    "VIRTUAL_ENV",
    "VISUAL",
    "WS_PROXY",
    "ZDOTDIR",
    "_JAVA_OPTIONS",
];

/// What the names of such variables begin with.
const FORBIDDEN_PREFIXES: &[&str] = &[
    "BASH_FUNC_",
    "BUNDLE_",
    "BUN_",
    "CARGO_",
    "COMPLUS_",
    "CONDA_",
    "CORECLR_",
    "COREPACK_",
    "DENO_",
    "DOTNET_",
    "DYLD_",
    "GCONV_",
    "GEM_",
    "GIT_CONFIG",
    "GIT_SSL_",
    "GIT_TRACE",
    "LC_",
    "LD_",
    "LUA_",
    "MALLOC_",
    "MONO_",
    "NIX_LD",
    "NODE_",
    "NPM_CONFIG_",
    "OPENSSL_",
    "PIPX_",
    "PIP_",
    "PLAYWRIGHT_",
    "PUPPETEER_",
    "PYTHON",
    "RUBY",
    "TS_NODE_",
    "UV_",
    "XDG_",
    "YARN_",
];

/// Why a text is no name of a variable that somebody may give.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum NotAName {
    #[error("is not written in A-Z, 0-9 and _, with a letter in it and no digit first")]
    Characters,
    #[error("is longer than {MAX_NAME_BYTES} bytes")]
    TooLong,
    #[error("changes how programs are run")]
    Forbidden,
}

/// The name as it is.
///
/// # Errors
/// [`NotAName`]
pub fn name(text: &str) -> Result<String, NotAName> {
    if text.len() > MAX_NAME_BYTES {
        return Err(NotAName::TooLong);
    }
    if !is_name(text) {
        return Err(NotAName::Characters);
    }
    let is_forbidden = FORBIDDEN.contains(&text) || FORBIDDEN_PREFIXES.iter().any(|prefix| text.starts_with(prefix));
    if is_forbidden { Err(NotAName::Forbidden) } else { Ok(text.to_owned()) }
}

/// Whether it is the name of a variable, and so of no header.
pub fn is_name(text: &str) -> bool {
    let is_written = text.bytes().all(|byte| byte.is_ascii_uppercase() || byte.is_ascii_digit() || byte == b'_');
    let has_letter = text.bytes().any(|byte| byte.is_ascii_uppercase());
    is_written && has_letter && !text.starts_with(|first: char| first.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use proptest::prelude::*;

    use super::super::header;
    use super::*;

    #[test]
    fn what_changes_how_programs_run_is_nobodys_to_give() {
        for text in [
            "PATH",
            "HOME",
            "LD_PRELOAD",
            "LD_LIBRARY_PATH",
            "DYLD_INSERT_LIBRARIES",
            "NODE_OPTIONS",
            "PYTHONPATH",
            "BASH_ENV",
            "GCONV_PATH",
            "GIT_SSH_COMMAND",
            "GIT_CONFIG_COUNT",
            "TMPDIR",
            "IFS",
        ] {
            assert_eq!(name(text), Err(NotAName::Forbidden), "{text}");
        }
        for text in ["", "_", "_1", "1A", "a", "A-B", "A B", "A=B", "A\0", "Ä", "path"] {
            assert_eq!(name(text), Err(NotAName::Characters), "{text:?}");
        }
        assert_eq!(name(&"A".repeat(MAX_NAME_BYTES + 1)), Err(NotAName::TooLong));
        for text in ["API_KEY", "_TOKEN", "GITHUB_TOKEN", "A1", "NOTION_KEY", "PATH_TO"] {
            assert_eq!(name(text).as_deref(), Ok(text));
        }
    }

    #[test]
    fn forbidden_names_are_in_order() {
        assert!(FORBIDDEN.is_sorted() && FORBIDDEN_PREFIXES.is_sorted());
    }

    proptest! {
        #![proptest_config(ProptestConfig { failure_persistence: None, ..ProptestConfig::default() })]

        #[test]
        fn no_name_of_a_variable_is_that_of_a_header(text in "[A-Z0-9_]{1,8}|[ -~]{0,12}") {
            if is_name(&text) {
                prop_assert!(header::name(&text).as_deref() != Ok(text.as_str()));
            }
        }
    }
}
