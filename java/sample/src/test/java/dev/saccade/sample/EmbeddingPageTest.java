package dev.saccade.sample;

import static org.assertj.core.api.Assertions.assertThat;

import java.io.IOException;
import java.nio.file.Files;
import java.nio.file.Path;
import java.util.ArrayList;
import java.util.List;
import java.util.regex.Matcher;
import java.util.regex.Pattern;
import org.junit.jupiter.api.Test;

/**
 * The programs of docs/embedding.md are those of the samples, which are built and run: above each
 * of its blocks of Java and XML a comment names the file, {@code <!-- path -->}, or the lines of
 * one between {@code tag::name[]} and {@code end::name[]}, {@code <!-- path#name -->}. {@code
 * -Dsaccade.page=write} makes it so.
 */
class EmbeddingPageTest {
  private static final Path ROOT = Path.of("../..");
  private static final Path PAGE = ROOT.resolve("docs/embedding.md");

  /** What names the source, if anything does; the language; the code. */
  private static final Pattern BLOCK =
      Pattern.compile("(?m)(?:^<!-- (\\S+) -->\\n)?^```(java|xml)\\n((?:(?!```).*\\n)*)^```$");

  @Test
  void programsAreThoseOfTheSamples() throws IOException {
    String page = Files.readString(PAGE);
    StringBuilder expected = new StringBuilder();
    Matcher block = BLOCK.matcher(page);
    int blocks = 0;
    while (block.find()) {
      assertThat(block.group(1)).as("the source of%n%s", block.group(3)).isNotNull();
      block.appendReplacement(
          expected,
          Matcher.quoteReplacement(
              "<!-- %s -->\n```%s\n%s```"
                  .formatted(block.group(1), block.group(2), source(block.group(1)))));
      blocks++;
    }
    block.appendTail(expected);
    assertThat(blocks).isGreaterThan(10);
    if ("write".equals(System.getProperty("saccade.page"))) {
      Files.writeString(PAGE, expected);
    } else {
      assertThat(page).isEqualTo(expected.toString());
    }
  }

  private static String source(String name) throws IOException {
    String[] parts = name.split("#");
    List<String> lines = new ArrayList<>();
    boolean inside = parts.length == 1;
    for (String line : Files.readAllLines(ROOT.resolve(parts[0]))) {
      boolean mark = line.matches(".*\\b(tag|end)::\\w+\\[\\].*");
      if (mark && parts.length == 2 && line.contains("::" + parts[1] + "[]")) {
        inside = line.contains("tag::");
      } else if (!mark && inside) {
        lines.add(line);
      }
    }
    assertThat(lines).as(name).isNotEmpty();
    String code = String.join("\n", lines);
    return (parts.length == 1 ? code : code.stripIndent()) + "\n";
  }
}
