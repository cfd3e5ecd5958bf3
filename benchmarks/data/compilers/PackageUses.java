import com.sun.source.tree.CompilationUnitTree;
import com.sun.source.tree.IdentifierTree;
import com.sun.source.util.JavacTask;
import com.sun.source.util.TreePath;
import com.sun.source.util.TreePathScanner;
import com.sun.source.util.Trees;
import java.nio.file.Path;
import java.util.List;
import java.util.TreeSet;
import javax.lang.model.element.Element;
import javax.lang.model.element.TypeElement;
import javax.tools.JavaCompiler;
import javax.tools.ToolProvider;

/**
 * What javac resolves: prints "file TAB file" where the first names a top-level class that the second declares by its
 * simple name, in the same package. Unknown dependencies are errors that it passes over.
 *
 * <p>java PackageUses.java FOLDER FILE...
 */
public class PackageUses {
  public static void main(String[] arguments) throws Exception {
    Path top = Path.of(arguments[0]).toAbsolutePath();
    JavaCompiler compiler = ToolProvider.getSystemJavaCompiler();
    var manager = compiler.getStandardFileManager(null, null, null);
    var sources = manager.getJavaFileObjects(List.of(arguments).subList(1, arguments.length).toArray(String[]::new));
    List<String> options = List.of("-proc:none", "-Xmaxerrs", "1");
    var task = (JavacTask) compiler.getTask(null, manager, error -> {}, options, null, sources);
    var units = task.parse();
    task.analyze();
    Trees trees = Trees.instance(task);
    var found = new TreeSet<String>();
    for (CompilationUnitTree unit : units) {
      new TreePathScanner<Void, Void>() {
        @Override
        public Void visitIdentifier(IdentifierTree node, Void unused) {
          Element element = trees.getElement(getCurrentPath());
          if (element instanceof TypeElement type && type.getEnclosingElement() != null
              && type.getEnclosingElement().toString().equals(String.valueOf(unit.getPackageName()))) {
            TreePath declared = trees.getPath(type);
            if (declared != null && declared.getCompilationUnit() != unit) {
              found.add(relative(unit) + "\t" + relative(declared.getCompilationUnit()));
            }
          }
          return super.visitIdentifier(node, unused);
        }

        private String relative(CompilationUnitTree one) {
          return top.relativize(Path.of(one.getSourceFile().toUri())).toString();
        }
      }.scan(unit, null);
    }
    found.forEach(System.out::println);
  }
}
