//! The chat templates that are compiled into llama.cpp, by name.

use std::ffi::{CStr, CString, c_char};

use llama_cpp_sys_2 as sys;

use super::Error;

/// Returns the names of the chat templates that are compiled into llama.cpp, sorted.
#[must_use]
pub fn chat_templates() -> Vec<String> {
    // SAFETY: with a length of 0 nothing is written; the result is the number of names.
    let n = unsafe { sys::llama_chat_builtin_templates(std::ptr::null_mut(), 0) };
    let mut names: Vec<*const c_char> = vec![std::ptr::null(); usize::try_from(n).unwrap_or(0)];
    // SAFETY: llama.cpp writes at most as many pointers as the length given.
    unsafe { sys::llama_chat_builtin_templates(names.as_mut_ptr(), names.len()) };
    let names = names.into_iter().filter(|name| !name.is_null());
    // SAFETY: each pointer that was written is a NUL-terminated name of a table that lives as long as the program.
    let mut names: Vec<String> =
        names.map(|name| unsafe { CStr::from_ptr(name) }.to_string_lossy().into_owned()).collect();
    names.sort();
    names
}

/// Renders messages, each a role and a content, with the template of this name. Adds no prompt for a further answer.
///
/// # Errors
/// [`Error::ChatTemplate`] for an unknown name; [`Error::Nul`] for a message with a NUL byte.
pub fn apply_chat_template(name: &str, messages: &[(String, String)]) -> Result<String, Error> {
    // llama.cpp takes any other text for the source of a template, and looks for a known one like it.
    if !chat_templates().iter().any(|known| known == name) {
        return Err(Error::ChatTemplate { name: name.to_owned() });
    }
    let c_string = |text: &str| {
        CString::new(text).map_err(|_| Error::Nul { what: "chat message", value: text.chars().take(80).collect() })
    };
    let c_name = c_string(name)?;
    let texts: Vec<[CString; 2]> = messages
        .iter()
        .map(|(role, content)| Ok([c_string(role)?, c_string(content)?]))
        .collect::<Result<_, Error>>()?;
    let chat: Vec<sys::llama_chat_message> = texts
        .iter()
        .map(|[role, content]| sys::llama_chat_message { role: role.as_ptr(), content: content.as_ptr() })
        .collect();
    let render = |buffer: &mut [u8]| {
        let len = i32::try_from(buffer.len()).unwrap_or(i32::MAX);
        // SAFETY: the name, roles and contents are NUL-terminated and outlive the call; `chat` has the length given;
        // llama.cpp writes at most `len` bytes.
        unsafe {
            sys::llama_chat_apply_template(
                c_name.as_ptr(),
                chat.as_ptr(),
                chat.len(),
                false,
                buffer.as_mut_ptr().cast(),
                len,
            )
        }
    };
    let refused = || Error::ChatTemplate { name: name.to_owned() };
    let len = usize::try_from(render(&mut [])).map_err(|_| refused())?;
    let mut buffer = vec![0; len + 1];
    if usize::try_from(render(&mut buffer)).ok() != Some(len) {
        return Err(refused());
    }
    buffer.truncate(len);
    Ok(String::from_utf8_lossy(&buffer).into_owned())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn templates_are_found_by_name_and_render_whole_conversations() {
        let names = chat_templates();
        assert!(names.len() > 30 && names.is_sorted() && names.iter().any(|name| name == "chatml"), "{names:?}");
        let message = |role: &str, content: &str| (role.to_owned(), content.to_owned());
        let messages = [message("user", "Hi é"), message("assistant", &"ho".repeat(5000))];
        for name in &names {
            let text = apply_chat_template(name, &messages).unwrap();
            assert!(text.contains("Hi é") && text.contains(&messages[1].1) && !text.contains('\0'), "{name}: {text}");
        }
        assert_eq!(apply_chat_template("chatml", &messages[..1]).unwrap(), "<|im_start|>user\nHi é<|im_end|>\n");
    }

    #[test]
    fn a_chat_template_of_unknown_name_is_refused() {
        let refused = apply_chat_template("<|im_start|>", &[]).unwrap_err().to_string();
        assert!(refused.contains("no chat template '<|im_start|>'"), "{refused}");
        assert!(matches!(apply_chat_template("chatml", &[("user".into(), "a\0b".into())]), Err(Error::Nul { .. })));
    }
}
