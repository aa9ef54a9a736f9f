"""What LLaMA-Factory, axolotl and ms-swift ask of a row of preferences, by their documents and loaders."""

import json

PLAIN = {"role", "content"}


def lines(path):
    return [json.loads(line) for line in path.read_bytes().splitlines()]


def check_llamafactory(row, info):
    """LLaMA-Factory, data/README.md (sharegpt: preference dataset, OpenAI format) and, for the order of turns and what
    is skipped, SharegptDatasetConverter in src/llamafactory/data/converter.py, commit 908cd68e."""
    columns, tags = info["columns"], info["tags"]
    assert (info["formatting"], info["ranking"]) == ("sharegpt", True)
    role, text = tags["role_tag"], tags["content_tag"]
    turns = row[columns["messages"]]
    turns = turns[1:] if turns[0][role] == tags["system_tag"] else turns
    ask, answer = {tags["user_tag"], tags["observation_tag"]}, {tags["assistant_tag"], tags["function_tag"]}
    assert len(turns) % 2 == 1
    assert all(one[role] in (answer if i % 2 else ask) for i, one in enumerate(turns))
    sides = [row[columns["chosen"]], row[columns["rejected"]]]
    assert all(isinstance(side, dict) and side[role] in answer for side in sides)
    for one in [*row[columns["messages"]], *sides]:
        assert set(one) == {role, text}
        assert isinstance(one[text], str)
        if one[role] == tags["function_tag"]:  # FunctionFormatter in src/llamafactory/data/formatter.py
            assert all(set(each) == {"name", "arguments"} for each in json.loads(one[text]))
    if "tools" in columns:  # ToolFormatter there: JSON, or an empty text
        tools = row[columns["tools"]]
        assert tools == "" or all("name" in tool for tool in json.loads(tools))


def check_axolotl(row, _=None):
    """axolotl, docs/rlhf.qmd (DPO: chat_template.default), commit 02063210, and for tools and calls
    src/axolotl/prompt_strategies/preference_chat_template.py, commit e4783e20; it removes the columns messages and
    tools, which must therefore be in every row."""
    roles = {"system", "user", "assistant", "tool"}
    assert isinstance(row["messages"], list)
    for side in ("chosen", "rejected"):
        assert isinstance(row[side], dict)
        assert row[side]["role"] == "assistant"
        assert row[side].get("tool_calls") or row[side]["content"].strip()
    for one in [*row["messages"], row["chosen"], row["rejected"]]:
        assert one["role"] in roles
        assert set(one) >= PLAIN
        for each in one.get("tool_calls", []):
            assert isinstance(json.loads(each["function"]["arguments"]), dict)
    assert isinstance(json.loads(row["tools"]), list)


def check_axolotl_reward(row):
    """axolotl, docs/reward_modelling.qmd, commit 1855055e; BTChatTemplateStrategy indexes `system`, which the document
    calls optional."""
    assert all(isinstance(row[name], str) for name in ("system", "input", "chosen", "rejected"))


def check_swift(row, _=None):
    """ms-swift, docs/source_en/Customization/Custom-dataset.md (RLHF: DPO/…/RM; rejected_messages from 3.8 on) and
    docs/source_en/Instruction/Agent-support.md; RowPreprocessor in swift/dataset/preprocessor/core.py, commit a3748752,
    for roles, and TemplateInputs in swift/template/template_inputs.py, commit b228e40f, for what replaces what."""
    conversations = [row["messages"]]
    if "rejected_messages" in row:
        assert "rejected_response" not in row
        conversations.append(row["rejected_messages"])
        assert row.get("tools") == row.get("rejected_tools")
    else:
        assert isinstance(row["rejected_response"], str)
        assert row["rejected_response"] != row["messages"][-1]["content"]
        assert row["messages"][-2]["role"] == "user"  # it replaces all that follows the last user's turn
    for turns in conversations:
        assert turns[-1]["role"] in {"assistant", "tool_call"}
        assert all(one["role"] != "system" for one in turns[1:])
        for one in turns:
            assert one["role"] in {"system", "user", "tool_call", "tool_response", "tool", "assistant"}
            assert set(one) == PLAIN
            assert isinstance(one["content"], str)
            if one["role"] == "tool_call":
                assert set(json.loads(one["content"])) == {"name", "arguments"}
    if "tools" in row:
        assert all("name" in tool["function"] for tool in json.loads(row["tools"]))


CHECKS = {"llamafactory": check_llamafactory, "axolotl": check_axolotl, "swift": check_swift}


def checked(to, folder, part="train"):
    """The rows of a part, each checked."""
    info = None
    if to == "llamafactory":
        info = json.loads((folder / "dataset_info.json").read_text())["kat" if part == "train" else "kat_validation"]
        assert info["file_name"] == f"pairs.{part}.jsonl"
    rows = lines(folder / f"pairs.{part}.jsonl")
    for row in rows:
        CHECKS[to](row, info)
    if to == "axolotl" and (folder / f"reward.{part}.jsonl").is_file():
        for row in lines(folder / f"reward.{part}.jsonl"):
            check_axolotl_reward(row)
    return rows
