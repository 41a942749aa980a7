"""Simple chat in both languages: a few questions that people type first, and small facts."""

from __future__ import annotations

import random
from dataclasses import dataclass

from models.mini.train.lexicon import Language, Phrase


@dataclass(frozen=True)
class Exchange:
    """A question with its phrasings per language and one short answer in both languages."""

    en: tuple[str, ...]
    ja: tuple[str, ...]
    reply: Phrase


EXCHANGES = (
    Exchange(
        ("Hello!", "Hello", "Hi", "Hi!", "Hi there!", "Hey", "Good morning!", "hello"),
        ("こんにちは。", "こんにちは", "こんにちは!", "やあ", "おはようございます。"),
        Phrase("Hello! How can I help you?", "こんにちは。何かお手伝いしましょうか。"),
    ),
    Exchange(
        (
            "Who are you?",
            "What are you?",
            "What is your name?",
            "Hello! Who are you?",
            "Hi, who are you?",
            "Tell me about yourself.",
            "Introduce yourself.",
        ),
        (
            "あなたは誰ですか。",
            "名前は何ですか。",
            "こんにちは。あなたは誰ですか。",
            "自己紹介してください。",
        ),
        Phrase(
            "I am a tiny language model. Nice to meet you!",
            "私は小さな言語モデルです。はじめまして。",
        ),
    ),
    Exchange(
        ("How are you?", "Hello, how are you?", "How are you today?", "How do you feel?"),
        ("元気ですか。", "お元気ですか。", "調子はどうですか。", "こんにちは。元気ですか。"),
        Phrase("I am fine, thank you. How are you?", "はい、元気です。ありがとうございます。"),
    ),
    Exchange(
        ("Thank you.", "Thanks!", "Thank you very much!", "That helps, thank you."),
        ("ありがとう。", "ありがとうございます。", "助かりました。", "どうもありがとう。"),
        Phrase("You are welcome!", "どういたしまして。"),
    ),
    Exchange(
        ("Goodbye.", "Bye!", "See you tomorrow.", "Good night."),
        ("さようなら。", "またね。", "また明日。", "おやすみなさい。"),
        Phrase("Goodbye! See you again.", "さようなら。またお会いしましょう。"),
    ),
    Exchange(
        ("What can you do?", "What are you able to do?", "How can you help me?", "Help"),
        ("何ができますか。", "あなたは何ができますか。", "手伝ってくれますか。"),
        Phrase(
            "I can tell short stories and work with small numbers.",
            "短いお話と小さな数の計算ができます。",
        ),
    ),
    Exchange(
        ("How is the weather?", "Is it sunny today?", "What is the weather like?"),
        ("天気はどうですか。", "今日の天気は?", "今日は晴れですか。"),
        Phrase("It is a sunny day.", "今日はよい天気です。"),
    ),
    Exchange(
        ("What do you like?", "What is your favorite food?", "What do you like to eat?"),
        ("何が好きですか。", "好きな食べ物は何ですか。", "何を食べたいですか。"),
        Phrase("I like apples.", "りんごが好きです。"),
    ),
    Exchange(
        ("Where do you live?", "Where are you?", "Where are you from?"),
        ("どこに住んでいますか。", "今どこにいますか。", "出身はどこですか。"),
        Phrase("I live in a small computer.", "小さなコンピューターの中に住んでいます。"),
    ),
    Exchange(
        ("What day is it?", "What time is it?", "What is the date today?"),
        ("今日は何曜日ですか。", "今何時ですか。", "今日は何日ですか。"),
        Phrase("I am sorry, I do not know the time.", "すみません、時間は分かりません。"),
    ),
    Exchange(
        ("Do you speak Japanese?", "Which languages do you speak?", "Do you speak English?"),
        ("日本語を話せますか。", "英語を話せますか。", "何語を話せますか。"),
        Phrase("Yes, I speak English and Japanese.", "はい、日本語と英語を話せます。"),
    ),
    Exchange(
        ("I am sad.", "I am tired.", "Today was a hard day."),
        ("悲しいです。", "疲れました。", "今日は大変でした。"),
        Phrase(
            "I am sorry to hear that. Please take a rest.", "それは大変でしたね。休んでください。"
        ),
    ),
    Exchange(
        ("I am happy.", "I feel great!", "Today was a good day."),
        ("うれしいです。", "今日は楽しかったです。", "いい日でした。"),
        Phrase("That is good to hear!", "それはよかったですね。"),
    ),
)

COLORED = (
    (Phrase("apple", "りんご"), Phrase("red", "赤")),
    (Phrase("sky", "空"), Phrase("blue", "青")),
    (Phrase("banana", "バナナ"), Phrase("yellow", "黄色")),
    (Phrase("snow", "雪"), Phrase("white", "白")),
    (Phrase("grass", "草"), Phrase("green", "緑")),
    (Phrase("crow", "カラス"), Phrase("black", "黒")),
    (Phrase("sea", "海"), Phrase("blue", "青")),
    (Phrase("milk", "牛乳"), Phrase("white", "白")),
)

CAPITALS = (
    (Phrase("Japan", "日本"), Phrase("Tokyo", "東京")),
    (Phrase("France", "フランス"), Phrase("Paris", "パリ")),
    (Phrase("England", "イギリス"), Phrase("London", "ロンドン")),
    (Phrase("Italy", "イタリア"), Phrase("Rome", "ローマ")),
    (Phrase("China", "中国"), Phrase("Beijing", "北京")),
)


def sample_chat(rng: random.Random, asked: Language) -> tuple[str, Phrase]:
    """A question in one language and its answer in both."""
    draw = rng.random()
    if draw < 0.7:
        exchange = rng.choice(EXCHANGES)
        return rng.choice(exchange.en if asked == "en" else exchange.ja), exchange.reply
    if draw < 0.85:
        subject, value = rng.choice(COLORED)
        question = Phrase("What color is the {0}?", "{0}は何色ですか。")
        answer = Phrase("The {0} is {1}.", "{0}は{1}です。")
    else:
        subject, value = rng.choice(CAPITALS)
        question = Phrase("What is the capital of {0}?", "{0}の首都はどこですか。")
        answer = Phrase("The capital of {0} is {1}.", "{0}の首都は{1}です。")
    filled = Phrase(answer.en.format(subject.en, value.en), answer.ja.format(subject.ja, value.ja))
    return question.text(asked).format(subject.text(asked)), filled
