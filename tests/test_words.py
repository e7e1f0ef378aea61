from ecg_llm.words import shared, stems, support


def test_shared_words_ignore_function_words_and_endings():
    assert shared("What is the PR interval?", "PR intervals vary") == 1
    assert shared("the PR interval", "the QT interval") == 0.5
    assert shared("120 ms", "1200 ms") == 0.5
    assert shared("PR and QT", "the PR", "the QT") == 1


def test_a_text_without_content_shares_nothing_and_lacks_no_support():
    assert shared("is it the", "anything") == 0
    assert support("is it the", "anything") == 1


def test_stems_are_five_letters_of_content_words_and_whole_numbers():
    assert stems("The Intervals of 1,200 patients vary") == {"inter", "1200", "patie", "vary"}
