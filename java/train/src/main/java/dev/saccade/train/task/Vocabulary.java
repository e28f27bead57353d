package dev.saccade.train.task;

import java.util.ArrayList;
import java.util.Arrays;
import java.util.Collections;
import java.util.HashMap;
import java.util.List;
import java.util.Map;
import java.util.Objects;
import java.util.stream.Collectors;
import java.util.stream.IntStream;

/**
 * The fixed tokens of questions and responses: ids 0 … {@link #SIZE} − 1, one name each. The ids
 * never change, for checkpoints depend on them; new tokens come behind those there are, and reach
 * the policies of tasks that ask for them by {@link Task#vocabulary()} and no others.
 */
public final class Vocabulary {

  /** Fills rows that hold no token; never part of a question or a response. */
  public static final int PAD = 0;

  /** Opens the reading of the scene. */
  public static final int THINK = 1;

  /** Closes the reading of the scene. */
  public static final int END_THINK = 2;

  /** Opens the answer. */
  public static final int ANSWER = 3;

  /** Closes the answer, and is the stop token of a response. */
  public static final int END_ANSWER = 4;

  /** "How many times does this digit occur?"; a digit follows. */
  public static final int COUNT = 5;

  /** "Which digit is in this cell?"; a row and a column follow. */
  public static final int READ = 6;

  /** The reading of a cell without a digit. */
  public static final int EMPTY = 7;

  /** The most rows, and the most columns, that have a token. */
  public static final int MAX_CELLS = 8;

  private static final int FIRST_DIGIT = 8;
  private static final int FIRST_ROW = FIRST_DIGIT + 10;
  private static final int FIRST_COLUMN = FIRST_ROW + MAX_CELLS;

  /** The number of tokens that {@link #COUNT} and {@link #READ} get by with: the first ones. */
  static final int BASIC_SIZE = FIRST_COLUMN + MAX_CELLS;

  /** "What is the sum of the digits of this row?"; a row follows. */
  public static final int SUM = BASIC_SIZE;

  /**
   * "Which of these two cells holds the larger digit?"; a row, a column, a row, a column follow.
   */
  public static final int COMPARE = SUM + 1;

  /** The answer that the cell named first holds the larger digit. */
  public static final int FIRST = COMPARE + 1;

  /** The answer that the cell named second holds the larger digit. */
  public static final int SECOND = FIRST + 1;

  /** "How long is this segment?". */
  public static final int LENGTH = SECOND + 1;

  /** "How large is this angle?". */
  public static final int ANGLE = LENGTH + 1;

  /** "In how many points do these lines and circles meet?". */
  public static final int INTERSECTIONS = ANGLE + 1;

  /** The number of tokens. */
  public static final int SIZE = INTERSECTIONS + 1;

  private static final List<String> NAMES = names();
  private static final Map<String, Integer> IDS = ids();

  private Vocabulary() {}

  /** The token of digit 0 … 9. */
  public static int digit(int digit) {
    return FIRST_DIGIT + Objects.checkIndex(digit, 10);
  }

  /**
   * The digits of a number in decimal, without leading zeros.
   *
   * @param number not negative
   */
  public static int[] number(int number) {
    return Integer.toString(number).chars().map(digit -> digit(digit - '0')).toArray();
  }

  /** The token of row 0 … {@link #MAX_CELLS} − 1. */
  public static int row(int row) {
    return FIRST_ROW + Objects.checkIndex(row, MAX_CELLS);
  }

  /** The token of column 0 … {@link #MAX_CELLS} − 1. */
  public static int column(int column) {
    return FIRST_COLUMN + Objects.checkIndex(column, MAX_CELLS);
  }

  /** The token that reads a cell: its digit, or {@link #EMPTY} for {@link Scene#NO_DIGIT}. */
  public static int cell(int label) {
    return label == Scene.NO_DIGIT ? EMPTY : digit(label);
  }

  /** Whether a token is one of the ten digits. */
  public static boolean isDigit(int token) {
    return token >= FIRST_DIGIT && token < FIRST_ROW;
  }

  /** Whether a token gives a response its structure: the four tags and {@link #PAD}. */
  static boolean isStructure(int token) {
    return token >= PAD && token <= END_ANSWER;
  }

  /**
   * The name of a token.
   *
   * @throws IndexOutOfBoundsException unless 0 ≤ token &lt; {@link #SIZE}
   */
  public static String name(int token) {
    return NAMES.get(token);
  }

  /**
   * The token of a name.
   *
   * @throws IllegalArgumentException if no token has that name; the message lists the names
   */
  public static int token(String name) {
    Integer token = IDS.get(name);
    if (token == null) {
      throw new IllegalArgumentException(
          "unknown token \"%s\"; known tokens: %s".formatted(name, String.join(" ", NAMES)));
    }
    return token;
  }

  /**
   * The tokens of names separated by white space, the inverse of {@link #decode}.
   *
   * @throws IllegalArgumentException if a name is unknown
   */
  public static int[] encode(String text) {
    return Arrays.stream(text.split("\\s+"))
        .filter(name -> !name.isEmpty())
        .mapToInt(Vocabulary::token)
        .toArray();
  }

  /**
   * The names of tokens, separated by single spaces.
   *
   * @throws IndexOutOfBoundsException if a token is not in the vocabulary
   */
  public static String decode(int... tokens) {
    return IntStream.of(tokens).mapToObj(Vocabulary::name).collect(Collectors.joining(" "));
  }

  private static List<String> names() {
    List<String> names = new ArrayList<>(SIZE);
    Collections.addAll(
        names, "<pad>", "<think>", "</think>", "<answer>", "</answer>", "COUNT", "READ", "empty");
    IntStream.range(0, 10).forEach(digit -> names.add(Integer.toString(digit)));
    IntStream.range(0, MAX_CELLS).forEach(row -> names.add("row" + row));
    IntStream.range(0, MAX_CELLS).forEach(column -> names.add("col" + column));
    Collections.addAll(
        names, "SUM", "COMPARE", "first", "second", "LENGTH", "ANGLE", "INTERSECTIONS");
    return List.copyOf(names);
  }

  private static Map<String, Integer> ids() {
    Map<String, Integer> ids = new HashMap<>();
    for (int token = 0; token < SIZE; token++) {
      ids.put(NAMES.get(token), token);
    }
    return Map.copyOf(ids);
  }
}
