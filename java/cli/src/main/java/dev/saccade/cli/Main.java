package dev.saccade.cli;

import dev.saccade.FatalException;
import dev.saccade.SaccadeException;
import dev.saccade.cli.cases.CaseException;
import dev.saccade.train.GradientFaultException;
import java.io.IOException;
import java.io.PrintWriter;
import java.nio.charset.StandardCharsets;
import java.nio.file.AccessDeniedException;
import java.nio.file.FileAlreadyExistsException;
import java.nio.file.FileSystemException;
import java.nio.file.NoSuchFileException;
import java.nio.file.NotDirectoryException;
import java.util.Arrays;
import java.util.List;
import java.util.Locale;
import picocli.CommandLine;
import picocli.CommandLine.Command;
import picocli.CommandLine.Model.CommandSpec;
import picocli.CommandLine.Option;
import picocli.CommandLine.ParameterException;
import picocli.CommandLine.ParseResult;
import picocli.CommandLine.ScopeType;
import picocli.CommandLine.Spec;
import picocli.CommandLine.UnmatchedArgumentException;

/**
 * The program {@code saccade}.
 *
 * <p>Exit status: 0 done; 1 a case of {@code op} or {@code bench} or a run of {@code experiment}
 * failed, or something got slower; 2 bad options, a bad file, or something that this build or
 * machine cannot do, told in one line on the standard error; 3 a defect. Stack traces appear with
 * {@code --debug} only.
 */
@Command(
    name = "saccade",
    header = "Reinforcement-learning post-training of multimodal models on fused kernels.",
    synopsisSubcommandLabel = "COMMAND",
    subcommands = {
      TrainCommand.class,
      EvalCommand.class,
      ExperimentCommand.class,
      VarianceCommand.class,
      ReportCommand.class,
      OpCommand.class,
      BenchCommand.class,
      InfoCommand.class
    },
    versionProvider = Version.class,
    commandListHeading = "%nCommands:%n",
    optionListHeading = "%nOptions:%n",
    exitCodeListHeading = "%nExit status:%n",
    exitCodeList = {
      "0:done",
      "1:a case of 'op' or 'bench' or a run of 'experiment' failed, or 'bench --compare' found"
          + " something slower or not run",
      "2:a bad option or file, or what this build or machine cannot do",
      "3:a defect of the program"
    },
    footerHeading = "%nExamples:%n",
    footer = {
      "  saccade train               learn to answer questions about images",
      "  saccade eval runs/my-run    how often a trained policy is right",
      "  saccade experiment kl       a comparison over seeds: table and figure",
      "  saccade variance RUN        what the noise in attention gradients is",
      "  saccade report RUN RUN      their curves on one page",
      "  saccade op golden/          check the kernels against recorded results",
      "  saccade bench --quick       how fast the kernels are here",
      "  saccade info                what this build and this machine offer"
    })
public final class Main implements Runnable {
  static final int FAILED = 1;
  static final int REJECTED = 2;
  static final int DEFECT = 3;

  private static final String DEBUG = "--debug";

  @Spec private CommandSpec spec;

  @Option(
      names = DEBUG,
      scope = ScopeType.INHERIT,
      description = "Show the stack trace of an error.")
  private boolean debug;

  @Option(
      names = {"-h", "--help"},
      usageHelp = true,
      scope = ScopeType.INHERIT,
      description = "Show this help and exit.")
  private boolean help;

  @Option(
      names = {"-V", "--version"},
      versionHelp = true,
      scope = ScopeType.INHERIT,
      description = "Show the version and exit.")
  private boolean version;

  private Main() {}

  /** Whether stack traces are wanted. */
  boolean debug() {
    return debug;
  }

  /** Runs the program and ends the JVM with its exit status. */
  public static void main(String[] args) {
    PrintWriter out = new PrintWriter(System.out, true, StandardCharsets.UTF_8);
    PrintWriter err = new PrintWriter(System.err, true, StandardCharsets.UTF_8);
    int status = run(out, err, args);
    out.flush();
    err.flush();
    System.exit(status);
  }

  /**
   * Runs the program inside this JVM.
   *
   * @return the exit status
   */
  public static int run(PrintWriter out, PrintWriter err, String... args) {
    CommandLine commandLine = commandLine().setOut(out).setErr(err);
    try {
      return commandLine.execute(args);
    } catch (LinkageError e) {
      err.println("saccade: the native library cannot be used: " + oneLine(e));
      if (Arrays.asList(args).contains(DEBUG)) {
        e.printStackTrace(err);
      }
      return REJECTED;
    }
  }

  static CommandLine commandLine() {
    CommandLine commandLine = new CommandLine(new Main());
    for (CommandLine command : commandLine.getSubcommands().values()) {
      command.getCommandSpec().versionProvider(new Version());
    }
    return commandLine
        .setCaseInsensitiveEnumValuesAllowed(true)
        .setAbbreviatedOptionsAllowed(false)
        .setUsageHelpAutoWidth(true)
        .setParameterExceptionHandler(Main::rejectParameters)
        .setExecutionExceptionHandler(Main::reject);
  }

  /** Without a command: the help, as an error. */
  @Override
  public void run() {
    spec.commandLine().usage(spec.commandLine().getErr());
    throw new ParameterException(spec.commandLine(), "no command given");
  }

  private static int rejectParameters(ParameterException e, String[] args) {
    CommandLine command = e.getCommandLine();
    String name = command.getCommandSpec().qualifiedName();
    String message = e instanceof UnmatchedArgumentException u ? unmatched(u) : oneLine(e);
    command.getErr().println(name + ": " + lowerFirst(message) + " (see '" + name + " --help')");
    if (Arrays.asList(args).contains(DEBUG)) {
      e.printStackTrace(command.getErr());
    }
    return REJECTED;
  }

  private static String unmatched(UnmatchedArgumentException e) {
    boolean isRoot = e.getCommandLine().getParent() == null;
    String what = e.isUnknownOption() ? "option" : isRoot ? "command" : "argument";
    List<String> suggestions = e.getSuggestions();
    return "unknown "
        + what
        + " '"
        + e.getUnmatched().get(0)
        + "'"
        + (suggestions.isEmpty() ? "" : "; did you mean " + String.join(" or ", suggestions) + "?");
  }

  private static String lowerFirst(String text) {
    return text.substring(0, 1).toLowerCase(Locale.ROOT) + text.substring(1);
  }

  private static int reject(Exception e, CommandLine command, ParseResult parsed) {
    String name = command.getCommandSpec().qualifiedName();
    boolean debug = ((Main) command.getCommandSpec().root().userObject()).debug;
    command.getErr().println(name + ": " + describe(e));
    if (debug) {
      e.printStackTrace(command.getErr());
    }
    return isForeseen(e) ? REJECTED : DEFECT;
  }

  private static boolean isForeseen(Exception e) {
    return e instanceof CliException
        || e instanceof CaseException
        || e instanceof GradientFaultException
        || e instanceof IOException
        || e instanceof SaccadeException && !(e instanceof FatalException);
  }

  /** What an exception says, in one line, and of file errors, what is wrong with the file. */
  static String describe(Exception e) {
    if (!isForeseen(e)) {
      return "defect (--debug shows where): " + e.getClass().getSimpleName() + ": " + oneLine(e);
    }
    String problem = "";
    // One that says which argument named the file has what is wrong with it as the cause.
    Throwable file = e.getCause() instanceof FileSystemException ? e.getCause() : e;
    if (file instanceof NoSuchFileException) {
      problem = ": no such file or folder";
    } else if (file instanceof AccessDeniedException) {
      problem = ": permission denied";
    } else if (file instanceof NotDirectoryException) {
      problem = ": not a folder";
    } else if (file instanceof FileAlreadyExistsException) {
      problem = ": exists and is not a folder";
    }
    return oneLine(e) + problem;
  }

  private static String oneLine(Throwable e) {
    String message = e.getMessage() == null ? e.getClass().getSimpleName() : e.getMessage();
    return message.strip().replaceAll("\\s*\\R\\s*", "; ");
  }
}
