package dev.saccade.train;

import dev.saccade.Context;
import dev.saccade.UnsupportedException;
import org.bytedeco.cuda.global.cublas;
import org.bytedeco.javacpp.Loader;
import org.bytedeco.javacpp.Pointer;

/**
 * cuBLAS, through its JavaCPP preset, as the provider of matrix products of a GPU.
 *
 * <p>The preset comes without NVIDIA's libraries: {@code libcublas.so.13} is that of an installed
 * CUDA 13 toolkit, found as any shared library is ({@code LD_LIBRARY_PATH}, the system's cache).
 *
 * <p>The addresses of its functions come from the dynamic linker, as those of {@link OpenBlas} do.
 */
public final class CuBlas {
  private CuBlas() {}

  /** Loads the library when it is first used, once. */
  private static final class Library {
    static final Context.Cublas FUNCTIONS;

    /** Why there is no library; null where there is one. */
    static final LinkageError MISSING;

    static {
      Context.Cublas functions = null;
      LinkageError missing = null;
      try {
        String path = Loader.load(cublas.class);
        if (path != null) {
          Loader.loadGlobal(path);
        }
        functions =
            new Context.Cublas(
                address("cublasCreate_v2"),
                address("cublasDestroy_v2"),
                address("cublasSetStream_v2"),
                address("cublasSetWorkspace_v2"),
                address("cublasGemmEx"),
                address("cublasGetStatusString"));
      } catch (LinkageError e) {
        missing = e;
      }
      FUNCTIONS = functions;
      MISSING = missing;
    }

    private static long address(String function) {
      Pointer found = Loader.addressof(function);
      if (found == null) {
        throw new UnsatisfiedLinkError("the library that was loaded has no " + function);
      }
      return found.address();
    }
  }

  /**
   * Gives {@code context}, of a GPU, the matrix products of cuBLAS.
   *
   * @throws UnsupportedException if the libraries cannot be loaded, or the context is of the CPU
   */
  public static void provideTo(Context context) {
    if (Library.MISSING != null) {
      UnsupportedException unsupported =
          new UnsupportedException(
              "cublas: expected libcublas.so.13 and libcudart.so.13 of a CUDA 13 toolkit on the"
                  + " library path, and a driver, got "
                  + reason(Library.MISSING));
      unsupported.initCause(Library.MISSING);
      throw unsupported;
    }
    context.setCublas(Library.FUNCTIONS);
  }

  /** What the dynamic linker said: the loader's own error names but the last place it looked in. */
  private static String reason(Throwable error) {
    return error.getCause() == null ? error.getMessage() : reason(error.getCause());
  }
}
