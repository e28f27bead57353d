package dev.saccade.cli;

import java.io.PrintWriter;
import java.io.StringWriter;
import java.net.URISyntaxException;
import java.net.URL;
import java.nio.file.Path;
import java.util.List;

/**
 * What the program did with some arguments.
 *
 * @param status the exit status
 * @param out the standard output
 * @param err the standard error
 */
record Cli(int status, String out, String err) {
  static Cli run(Object... arguments) {
    StringWriter out = new StringWriter();
    StringWriter err = new StringWriter();
    String[] args = List.of(arguments).stream().map(Object::toString).toArray(String[]::new);
    int status = Main.run(new PrintWriter(out, true), new PrintWriter(err, true), args);
    return new Cli(status, out.toString(), err.toString());
  }

  /** The lines of the standard error. */
  List<String> errors() {
    return err.lines().toList();
  }

  /** The folder of the golden cases. */
  static Path golden() {
    URL folder = Cli.class.getResource("/golden");
    try {
      return Path.of(folder.toURI());
    } catch (URISyntaxException e) {
      throw new AssertionError(e);
    }
  }
}
