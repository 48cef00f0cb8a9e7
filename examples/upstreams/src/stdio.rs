//! The stdio transport: one message on a line, in and out. The server ends when its input ends.

use std::io;

use serde_json::Value;
use tokio::io::{AsyncBufReadExt, AsyncRead, AsyncReadExt, AsyncWrite, AsyncWriteExt, BufReader};

use crate::http::MAX_MESSAGE_BYTES;
use crate::protocol::{self, Era, Message, Request, Server};

pub(crate) async fn serve<S>(
    input: impl AsyncRead + Unpin,
    mut output: impl AsyncWrite + Unpin,
    server: &Server<S>,
) -> io::Result<()> {
    let mut input = BufReader::new(input);
    let mut line = Vec::new();
    loop {
        line.clear();
        let most = MAX_MESSAGE_BYTES as u64 + 1;
        (&mut input).take(most).read_until(b'\n', &mut line).await?;
        if line.is_empty() {
            return Ok(());
        }
        if line.len() > MAX_MESSAGE_BYTES {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "a line is longer than a message may be"));
        }
        if let Some(response) = take_message(server, &line) {
            let mut text = response.to_string();
            text.push('\n');
            output.write_all(text.as_bytes()).await?;
            output.flush().await?;
        }
    }
}

fn take_message<S>(server: &Server<S>, line: &[u8]) -> Option<Value> {
    match Message::parse(line) {
        Ok(Message::Request(request)) => {
            let outcome = answer(server, &request);
            Some(protocol::response(Some(request.id), outcome))
        }
        Ok(Message::Notification | Message::Response) => None,
        Err(fault) => Some(protocol::response(None, Err(fault))),
    }
}

fn answer<S>(server: &Server<S>, request: &Request) -> Result<Value, protocol::Fault> {
    let era = request.era();
    if era == Era::Modern {
        request.check_meta()?;
    }
    server.answer(era, request)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[tokio::test]
    async fn lines_are_answered_in_turn_until_the_input_ends() {
        let input = concat!(
            r#"{"jsonrpc":"2.0","id":1,"method":"initialize","params":{"protocolVersion":"2025-06-18"}}"#,
            "\n",
            r#"{"jsonrpc":"2.0","method":"notifications/initialized"}"#,
            "\nnot json\n",
            r#"{"jsonrpc":"2.0","id":"b","method":"tools/call","params":{"name":"get_issue","arguments":{"number":3}}}"#,
        );
        let mut output = Vec::new();
        serve(input.as_bytes(), &mut output, &Server::new(crate::tracker::toolbox())).await.unwrap();
        let answers: Vec<Value> =
            output.split(|byte| *byte == b'\n').filter_map(|line| serde_json::from_slice(line).ok()).collect();
        assert_eq!(answers.len(), 3);
        assert_eq!(answers[0]["result"]["protocolVersion"], "2025-06-18");
        assert_eq!(answers[1]["error"]["code"], -32700);
        assert_eq!(answers[2]["id"], "b");
        assert_eq!(answers[2]["result"]["structuredContent"]["number"], 3);
    }

    #[tokio::test]
    async fn an_endless_line_ends_the_server() {
        let error = serve(tokio::io::repeat(b' '), tokio::io::sink(), &Server::new(crate::notes::toolbox())).await;
        assert_eq!(error.unwrap_err().kind(), io::ErrorKind::InvalidData);
    }
}
