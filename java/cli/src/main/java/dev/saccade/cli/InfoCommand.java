package dev.saccade.cli;

import com.fasterxml.jackson.databind.ObjectMapper;
import com.fasterxml.jackson.databind.SerializationFeature;
import dev.saccade.Context;
import dev.saccade.Gpu;
import dev.saccade.UnsupportedException;
import java.io.IOException;
import java.io.PrintWriter;
import java.util.LinkedHashMap;
import java.util.List;
import java.util.Locale;
import java.util.Map;
import java.util.concurrent.Callable;
import picocli.CommandLine.Command;
import picocli.CommandLine.Mixin;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.Spec;

/** {@code saccade info}: what this build and this machine offer. */
@Command(
    name = "info",
    description = "Shows the version, the native library, the devices and the threads in use.",
    optionListHeading = "%nOptions:%n",
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade info",
      "  saccade info --json | jq .instruction_set",
      "  saccade info --instruction-set baseline    is this instruction set there?"
    })
final class InfoCommand implements Callable<Integer> {
  private static final Map<String, String> TITLES =
      Map.of("cuda", "CUDA", "gpus", "GPUs", "no_gpu", "No GPU");

  @Spec private CommandSpec spec;
  @Mixin private ContextOptions options;

  @Option(names = "--json", description = "Write one JSON object instead of text.")
  private boolean json;

  @Override
  public Integer call() throws IOException {
    Map<String, Object> facts = facts();
    PrintWriter out = spec.commandLine().getOut();
    if (json) {
      out.println(
          new ObjectMapper().enable(SerializationFeature.INDENT_OUTPUT).writeValueAsString(facts));
    } else {
      facts.forEach((name, value) -> out.printf("%-16s  %s%n", title(name), text(value)));
    }
    return 0;
  }

  private Map<String, Object> facts() {
    Map<String, Object> facts = new LinkedHashMap<>();
    facts.put("version", Version.current());
    String build = Context.nativeBuild();
    facts.put("native_library", build);
    facts.put("cuda", build.matches(".*backends:.*\\bcuda\\b.*"));
    try (Context context = options.open()) {
      facts.put("device", context.device().toString());
      facts.put("instruction_set", context.instructionSet());
      facts.put("threads", context.threads());
    }
    try {
      facts.put("gpus", Gpu.all().stream().map(Gpu::toString).toList());
    } catch (UnsupportedException e) {
      facts.put("no_gpu", e.getMessage());
    }
    facts.put("java", System.getProperty("java.version") + " " + System.getProperty("java.vendor"));
    facts.put("system", System.getProperty("os.name") + " " + System.getProperty("os.arch"));
    return facts;
  }

  private static String title(String name) {
    String words = name.replace('_', ' ');
    return TITLES.getOrDefault(
        name, words.substring(0, 1).toUpperCase(Locale.ROOT) + words.substring(1));
  }

  private static String text(Object value) {
    if (value instanceof List<?> list) {
      return String.join("; ", list.stream().map(Object::toString).toList());
    }
    if (value instanceof Boolean there) {
      return there ? "in this build" : "not in this build";
    }
    return value.toString();
  }
}
